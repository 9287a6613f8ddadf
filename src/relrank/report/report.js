'use strict'
/* Explanations, copies and downloads of tables and plots, folds for print, and reloading while a study runs. */
const all = (selector, root = document) => [...root.querySelectorAll(selector)]
const make = (tag, traits, ...children) => {
  const element = Object.assign(document.createElement(tag), traits)
  element.append(...children)
  return element
}

/* explanations: by mouse, keyboard and touch; they can be pointed at, and Escape closes them */
const tip = document.getElementById('tip')
let shown = null
let closing = 0
const show = term => {
  const text = document.getElementById(term.getAttribute('aria-describedby'))
  if (!text) return
  clearTimeout(closing)
  shown = term
  tip.textContent = text.textContent.trim().replace(/\s+/g, ' ')
  tip.hidden = false
  const at = term.getBoundingClientRect(), box = tip.getBoundingClientRect(), edge = 8
  const left = Math.max(edge, Math.min(at.left, document.documentElement.clientWidth - box.width - edge))
  const above = at.bottom + box.height + edge > innerHeight && at.top > box.height + edge
  tip.style.left = `${left + scrollX}px`
  tip.style.top = `${(above ? at.top - box.height - 4 : at.bottom + 4) + scrollY}px`
}
const hide = () => { shown = null; tip.hidden = true }
const hideSoon = () => { clearTimeout(closing); closing = setTimeout(hide, 120) }
for (const term of all('.term')) {
  term.addEventListener('pointerenter', event => { if (event.pointerType === 'mouse') show(term) })
  term.addEventListener('pointerleave', event => { if (event.pointerType === 'mouse') hideSoon() })
  term.addEventListener('focus', () => show(term))
  term.addEventListener('blur', hideSoon)
  term.addEventListener('click', () => show(term))
}
tip.addEventListener('pointerenter', () => clearTimeout(closing))
tip.addEventListener('pointerleave', hideSoon)
document.addEventListener('keydown', event => { if (event.key === 'Escape') { hide(); closeMenus() } })
document.addEventListener('pointerdown', event => {
  if (shown && !tip.contains(event.target) && event.target !== shown) hide()
  closeMenus(event.target)
})

/* tables as text; CSV has the stored values, Markdown and LaTeX have figures as they are printed */
const rounded = value => {
  if (value === null) return '–'
  if (typeof value !== 'number' || Number.isInteger(value)) return String(value)
  return value.toFixed(Number(document.body.dataset.decimals))
}
const csvCell = value => {
  const text = value === null ? '' : String(value)
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}
const markdownCell = value => rounded(value).replace(/[\\|]/g, '\\$&').replace(/\s+/g, ' ')
const LATEX = { '\\': '\\textbackslash{}', '~': '\\textasciitilde{}', '^': '\\textasciicircum{}' }
const latexCell = value => rounded(value).replace(/[\\~^&%$#_{}]/g, sign => LATEX[sign] ?? `\\${sign}`)
const isNumeric = (data, i) => data.rows.some(row => typeof row[i] === 'number')
const FORMATS = {
  CSV: ['csv', data => [data.columns, ...data.rows].map(row => row.map(csvCell).join(',')).join('\r\n') + '\r\n'],
  Markdown: ['md', data => [
    data.columns.map(markdownCell),
    data.columns.map((_, i) => isNumeric(data, i) ? '---:' : '---'),
    ...data.rows.map(row => row.map(markdownCell))
  ].map(row => `| ${row.join(' | ')} |`).join('\n') + '\n'],
  LaTeX: ['tex', data => [
    `\\begin{tabular}{${data.columns.map((_, i) => isNumeric(data, i) ? 'r' : 'l').join('')}}`, '\\toprule',
    `${data.columns.map(latexCell).join(' & ')} \\\\`, '\\midrule',
    ...data.rows.map(row => `${row.map(latexCell).join(' & ')} \\\\`), '\\bottomrule', '\\end{tabular}'
  ].join('\n') + '\n']
}

/* plots: lines and text of a figure at their places, with their colours, as one picture */
const SVG = 'http://www.w3.org/2000/svg'
const STYLES = ['fill', 'stroke', 'stroke-width', 'stroke-dasharray', 'stroke-linecap', 'stroke-linejoin', 'opacity',
  'font-size', 'font-weight', 'font-family', 'text-anchor', 'paint-order', 'display', 'vector-effect']
const svgOf = (tag, traits) => {
  const element = document.createElementNS(SVG, tag)
  for (const [name, value] of Object.entries(traits)) element.setAttribute(name, value)
  return element
}
const isVisible = element => element.checkVisibility() && !element.closest('.hidden, .export, title')
const copyOf = (svg, x, y, box) => {
  const copy = svg.cloneNode(true)
  const originals = [svg, ...all('*', svg)]
  for (const [i, element] of [copy, ...all('*', copy)].entries()) {
    const style = getComputedStyle(originals[i])
    element.setAttribute('style', STYLES.map(name => `${name}:${style.getPropertyValue(name)}`).join(';'))
    element.removeAttribute('class')
  }
  for (const [name, value] of Object.entries({ x, y, width: box.width, height: box.height })) {
    copy.setAttribute(name, value)
  }
  copy.style.overflow = 'visible'
  return copy
}
const linesOf = node => {
  const lines = []
  const range = document.createRange()
  for (const word of node.data.matchAll(/\S+/g)) {
    range.setStart(node, word.index)
    range.setEnd(node, word.index + word[0].length)
    const box = range.getBoundingClientRect(), last = lines.at(-1)
    if (last && Math.abs(last.box.top - box.top) < 2) last.text += ` ${word[0]}`
    else if (box.width) lines.push({ box, text: word[0] })
  }
  return lines
}
const pictureOf = figure => {
  const frame = figure.getBoundingClientRect(), pad = 16
  const picture = svgOf('svg', {
    xmlns: SVG, width: Math.ceil(frame.width + 2 * pad), height: Math.ceil(frame.height + 2 * pad)
  })
  const paper = getComputedStyle(document.body).backgroundColor
  picture.append(svgOf('rect', { width: '100%', height: '100%', fill: paper }))
  const walker = document.createTreeWalker(figure, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT)
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.nodeType === Node.TEXT_NODE ? node.parentElement : node
    if (!isVisible(element) || element.parentElement.closest('svg')) continue
    const style = getComputedStyle(element)
    if (node.nodeType === Node.TEXT_NODE) {
      if (element.closest('svg')) continue
      for (const { box, text } of linesOf(node)) {
        const line = svgOf('text', {
          x: box.left - frame.left + pad, y: box.top - frame.top + pad + box.height * 0.78, fill: style.color,
          style: `font:${style.fontWeight} ${style.fontSize} ${style.fontFamily}`
        })
        line.textContent = text
        picture.append(line)
      }
      continue
    }
    const box = node.getBoundingClientRect(), x = box.left - frame.left + pad, y = box.top - frame.top + pad
    if (node.tagName.toLowerCase() === 'svg') picture.append(copyOf(node, x, y, box))
    else if (/rgb\(/.test(style.backgroundColor) && node.classList.contains('chip')) {
      const round = { rx: box.height / 2, fill: style.backgroundColor }
      picture.append(svgOf('rect', { x, y, width: box.width, height: box.height, ...round }))
    }
  }
  return picture
}
const svgText = figure => new XMLSerializer().serializeToString(pictureOf(figure))
const pngBlob = async figure => {
  const image = new Image()
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svgText(figure))}`
  await image.decode()
  const canvas = make('canvas', { width: 2 * image.width, height: 2 * image.height })
  canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height)
  return new Promise(done => canvas.toBlob(done, 'image/png'))
}

/* the menus */
const save = (blob, name, ending) => {
  const file = `${document.body.dataset.study} ${name}`.toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^-|-$/g, '')
  const link = make('a', { href: URL.createObjectURL(blob), download: `${file}.${ending}` })
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10000)
}
const copy = async text => {
  try {
    await navigator.clipboard.writeText(text)
  } catch {
    const area = make('textarea', { value: text })
    document.body.append(area)
    area.select()
    document.execCommand('copy')
    area.remove()
  }
}
const closeMenus = inside => all('.export[open]').forEach(menu => { if (!menu.contains(inside)) menu.open = false })
const button = (text, label, act) => {
  const one = make('button', { type: 'button', textContent: text, ariaLabel: label })
  one.addEventListener('click', async () => {
    await act()
    one.textContent = '✓'
    setTimeout(() => { one.textContent = text }, 1200)
  })
  return one
}
const menuOf = holder => {
  const { name } = holder.dataset
  const rows = []
  if (holder.dataset.table) {
    const data = JSON.parse(holder.dataset.table)
    const formats = Object.entries(FORMATS)
    rows.push(make('p', {}, 'Copy table ', ...formats.map(([format, [, write]]) =>
      button(format, `Copy ${name} as ${format}`, () => copy(write(data))))))
    rows.push(make('p', {}, 'Save table ', ...formats.map(([format, [ending, write]]) =>
      button(`.${ending}`, `Save ${name} as ${format}`, () => save(new Blob([write(data)]), name, ending)))))
  }
  if (holder.dataset.plot) {
    const vector = () => save(new Blob([svgText(holder)], { type: 'image/svg+xml' }), name, 'svg')
    rows.push(make('p', {}, 'Save plot ',
      button('.png', `Save ${name} as PNG`, async () => save(await pngBlob(holder), name, 'png')),
      button('.svg', `Save ${name} as SVG`, vector)))
  }
  const summary = make('summary', { textContent: 'Export', ariaLabel: `Export ${name}` })
  return make('details', { className: 'export' }, summary, make('div', { className: 'choices' }, ...rows))
}
for (const holder of all('.sheet, .plotted')) holder.prepend(menuOf(holder))

/* a link opens the folds around its target; print opens all */
const reveal = () => {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)))
  if (!target) return
  const inside = target.querySelector(':scope > details.fold')
  if (inside) inside.open = true
  for (let fold = target.closest('details'); fold; fold = fold.parentElement.closest('details')) fold.open = true
  target.scrollIntoView()
}
addEventListener('hashchange', reveal)
const folds = () => all('details:not(.export)')
let closed = []
addEventListener('beforeprint', () => { closed = folds().filter(fold => !fold.open); closed.forEach(fold => { fold.open = true }) })
addEventListener('afterprint', () => closed.forEach(fold => { fold.open = false }))

/* while a study runs: reload, and come back to the same place with the same folds open */
const KEY = `relrank ${document.body.dataset.study}`
const kept = (() => { try { return JSON.parse(sessionStorage.getItem(KEY)) } catch { return null } })()
const nameOf = fold => `${fold.closest('[id]')?.id} ${fold.querySelector('summary').textContent.trim()}`
if (kept) {
  try { sessionStorage.removeItem(KEY) } catch { /* no storage: nothing was kept */ }
  folds().forEach(fold => { fold.open ||= kept.open.includes(nameOf(fold)) })
  scrollTo(0, kept.top)
} else reveal()
const seconds = Number(document.body.dataset.refresh)
if (seconds) {
  history.scrollRestoration = 'manual'
  setTimeout(() => {
    const state = { top: scrollY, open: folds().filter(fold => fold.open).map(nameOf) }
    try { sessionStorage.setItem(KEY, JSON.stringify(state)) } catch { /* the page starts at the top then */ }
    location.reload()
  }, 1000 * seconds)
}
document.body.classList.add('ready')
