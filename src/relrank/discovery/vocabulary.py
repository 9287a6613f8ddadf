"""Words in the names of tables and columns, English and German, and what they say about the content."""

from __future__ import annotations

import re
import unicodedata
from functools import cache


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})

IDS = _words(
    """
    id ids key keys code nr no num number nummer kennung uid uuid guid ref fk pk idx index kuerzel
    """
)
"""Words that say that a column holds keys, and not of what."""

USER = _words(
    """
    user users customer client member buyer shopper account person visitor reader viewer listener player
    reviewer subscriber patron guest consumer author_id kunde kunden kaeufer nutzer benutzer mitglied
    besteller leser hoerer gast abonnent verbraucher profil profile uid userid customerid kundennr kdnr
    clientid memberid visitorid
    """
)
ITEM = _words(
    """
    item product article sku movie film book song track album artist game recipe course hotel business
    restaurant news video asin isbn offer listing poi venue place show series anime podcast episode job
    merchandise produkt artikel ware buch lied spiel rezept kurs angebot stueck titel itemid productid
    movieid bookid artikelnr produktid artnr sendung
    """
)
RATING = _words(
    """
    rating rate stars star score grade vote bewertung note sterne punkte wertung ratings
    """
)
TIME = _words(
    """
    time date timestamp datetime at on when day created ts datum zeit zeitpunkt zeitstempel uhrzeit tag am
    erstellt unixtime epoch moment
    """
)
STARTS = _words(
    """
    order ordered bought buy purchase purchased rated created event invoice sold watched viewed seen clicked
    added timestamp transaction bestellt bestellung gekauft kauf bestelldatum kaufdatum rechnungsdatum
    """
)
"""Words of the time at which something happened …"""
LATER = _words(
    """
    ship shipped shipping deliver delivered delivery updated update modified changed paid payment returned
    exported export import imported loaded processed sync synced versand versandt geliefert liefer lieferung
    lieferdatum bezahlt geaendert aktualisiert archiviert
    """
)
"""… and of what happened to the row afterwards."""

STRONG = _words(
    """
    rating ratings order orders purchase purchases transaction transactions interaction interactions sale
    sales bought basket baskets lines checkin checkins listen listens plays loans borrowings bestellung
    bestellungen kauf kaeufe verkauf verkaeufe bestellpositionen positionen position transaktionen
    bewertungen umsaetze invoice invoices rental rentals read reads feedback likes
    """
)
"""Behaviours that recommendations are for."""
WEAK = _words(
    """
    addtocart view views viewed click clicks clicked cart carts visit visits impression impressions wishlist wishlists
    favourites favorites bookmarks pageviews search searches session sessions log logs ansichten aufrufe
    klicks warenkorb warenkoerbe merkzettel wunschliste besuche returns retouren ruecksendungen
    """
)
"""Behaviours that come before or beside it."""
NEITHER = _words(
    """
    tag tags category categories genre genres author authors keyword keywords brand brands supplier
    suppliers store stores shop order orders invoice session basket line position warehouse country region
    city colour color schlagwort kategorie marke lieferant filiale lager land stadt farbe bestellung
    rechnung warengruppe gruppe group class payment status channel device browser type coupon voucher
    campaign employee mitarbeiter
    """
)
"""Keys that are neither users nor items."""

MEASURES = _words(
    """
    quantity qty amount price cost total sum count weight age year month day hour rating score stars stock
    discount size length width height duration runtime pages percent rank level points margin tax vat menge
    anzahl preis betrag summe gewicht alter jahr monat rabatt bestand groesse laenge breite hoehe dauer
    seiten mwst note lagerbestand stueckzahl einzelpreis gesamtpreis version budget revenue votes popularity
    lat lon latitude longitude
    """
)
"""Quantities, which are no keys even where their numbers occur among keys."""

QUANTITIES = _words(
    """
    num count counts total likes number_of n gross length duration anzahl summe
    """
)
"""Words of quantities that no column of keys has."""
EVENT_KEYS = _words(
    """
    order orders invoice session basket line position bestellung rechnung beleg bon receipt transaction
    visit event
    """
)
"""Keys of events that rows may belong to."""
PARENTS = _words(
    """
    parent above super upper belongs part ober oberkategorie eltern uebergeordnet vater
    """
)
"""Words of a column that names a row of its own table."""
BIRTH = _words(
    """
    birth dob birthday birthdate born geburtsdatum geburtstag geboren geburt
    """
)
GIVEN = _words(
    """
    tag tags keyword keywords label labels genre shelf list playlist schlagwort stichwort
    """
)
"""What users give items."""
IDENTIFIERS = _words(
    """
    isbn isbn13 ean gtin upc asin barcode mpn serial imdb tmdb doi slug uuid guid
    """
)
"""Identifiers that other catalogues use."""

PRIVATE = _words(
    """
    email mail phone telephone mobile fax password passwort hash street address strasse anschrift adresse
    telefon handy iban bic ssn passport vorname nachname firstname lastname surname username login nickname
    ip
    """
)
"""What identifies a person."""
TITLES = _words(
    """
    title name titel label bezeichnung produktname artikelname headline caption
    """
)
NOTES = _words(
    """
    note notes remark remarks comment comments memo notiz notizen bemerkung kommentar intern
    """
)
TEXTS = _words(
    """
    description desc text overview summary abstract plot review body content beschreibung inhalt rezension
    zusammenfassung langtext produkttext blurb synopsis lyrics
    """
)
USER_ATTRIBUTES = _words(
    """
    age gender sex birth birthday birthdate birthyear email newsletter signup registered occupation zip
    income geschlecht geburtsdatum geburtsjahr plz beruf anrede registriert alter loyalty
    """
)
ITEM_ATTRIBUTES = _words(
    """
    price title description brand category genre genres colour color material author publisher preis titel
    beschreibung marke kategorie farbe warengruppe hersteller bezeichnung overview tagline manufacturer
    """
)

COMPUTED = _words(
    """
    spent spend lifetime popular bestselling average avg mean popularity bestseller sold sales revenue
    turnover views clicks likes votes reviews ratings purchases orders buyers trending frequency recency ltv
    clv churn durchschnitt beliebtheit verkauft verkaeufe umsatz absatz bewertungen kaeufe bestellungen
    aufrufe klicks verkaufsrang
    """
)
"""Words of figures that are computed from interactions."""
AMBIGUOUSLY_COMPUTED = _words(
    """
    score rank rating stars count total spent last first num rang bewertung anzahl letzter letzte
    """
)
"""Words of such figures that also have other meanings; they count beside a word of an interaction."""
CHOSEN = _words(
    """
    last latest recent favourite favorite fav top preferred usual frequent letzte letzter
    zuletzt liebling lieblings bevorzugt bevorzugte haeufigste haeufigster
    """
)
"""Words of what users chose last or most."""
EVENTS = (
    STRONG
    | WEAK
    | _words(
        """
    buy order kauf bestell seen activity active login purchase rated vote user users
    """
    )
)
STOCK = _words(
    """
    stock inventory onhand bestand lagerbestand restbestand verfuegbar availability
    """
)
"""Words of how many pieces are left, which sales change."""
RELATED = _words(
    """
    also together frequently bought viewed purchased buyers customers gekauft auch kunden zusammen
    """
)
"""Words of lists of items that were computed from what users chose."""


@cache
def words_of(name: str) -> tuple[str, ...]:
    """The words of a name, lower-cased: ``customerID``, ``customer_id`` and ``Customer Id`` are the same."""
    text = unicodedata.normalize("NFKC", name)
    text = re.sub(r"(?<=[a-zäöüß])(?=[A-ZÄÖÜ])|(?<=[A-ZÄÖÜ])(?=[A-ZÄÖÜ][a-zäöüß])", " ", text)
    text = text.lower().translate(_UMLAUTS)
    return tuple(word for word in re.split(r"[^0-9a-z]+", text) if word)


@cache
def topics_of(name: str) -> tuple[str, ...]:
    """The words of a name but those that say that it is a key; a trailing ``id`` or ``nr`` of a word is cut off."""
    words = (re.sub(r"(?<=[a-z]{3})(id|nr|nummer|no)$", "", word) for word in words_of(name))
    return tuple(word for word in words if word not in IDS and not word.isdigit())


def names_a(name: str, vocabulary: frozenset[str]) -> bool:
    """Whether a word of a name, or its singular, is in a vocabulary."""
    words = {*words_of(name), *topics_of(name)}
    return any(word in vocabulary or singular(word) in vocabulary for word in words)


@cache
def singular(word: str) -> str:
    """A word without a plural ending of English, roughly."""
    if word in ("movies", "cookies", "calories", "series", "species", "news"):
        return word.removesuffix("s") if word in ("movies", "cookies", "calories") else word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word


def same_word(one: str, other: str) -> bool:
    """Whether two words are the same but for their ending: brand and brands, Marke and Marken."""
    shorter, longer = sorted((one, other), key=len)
    if shorter == longer:
        return True
    stem = max(3, len(shorter) - 1)
    return len(longer) - len(shorter) <= 3 and len(shorter) >= 3 and longer[:stem] == shorter[:stem]


def share_topic(one: str, other: str) -> bool:
    """Whether two names have a topic in common."""
    return any(same_word(a, b) for a in topics_of(one) for b in topics_of(other))


def is_meaningless(name: str) -> bool:
    """Whether a name says nothing, as ``col1``, ``x`` or ``field_3``."""
    return (
        all(
            len(word) <= 2 or re.fullmatch(r"(col|column|field|feld|spalte|var|attr|c|f|v|x|unnamed)\d*|\d+", word)
            for word in words_of(name)
            if word not in IDS
        )
        and not topics_of(name)
    ) or all(
        re.fullmatch(r"(col|column|field|feld|spalte|var|attr|unnamed|[a-z])\d*", word) for word in topics_of(name)
    )
