"""Why an item has its rank in a served list, as JSON under outside ids; see ``relrank.explanation.explainer``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from relrank.errors import InputError
from relrank.evaluation.evaluate import accepts_longer_history
from relrank.explanation.explainer import Explanation, Reason
from relrank.kernels.csr import Int64
from relrank.models import Recommender
from relrank.serve.catalogue import JsonObject
from relrank.serve.kernel_threads import parallel_kernels
from relrank.serve.limits import RequestError, shortened_repr
from relrank.serve.paging import Mask, Rows
from relrank.serve.served_model import ServedModel
from relrank.serve.sessions import append_session


def explain_item(
    served: ServedModel,
    item: int,
    user: int | None,
    history: Int64 | None,
    n: int,
    model: Recommender | None = None,
    candidates: Mask | None = None,
) -> JsonObject:
    """Rank, score and reasons of an item in the list of a known user or a history.

    Args:
        served: the run.
        item: row.
        user: row; None for a history.
        history: item rows, oldest first; with a user those of the session.
        n: maximum number of reasons.
        model: the model under other relation weights; None for the fitted one.
        candidates: bool [n_items], the candidate items of the list; None for all.

    Raises:
        RequestError: the item is not in the list, or the model cannot be explained.
    """
    interacted = served.interacted_items(user, history)
    _check_listed(served, item, interacted, candidates)
    page = served.ranked_list(user, history, 0, served.n_items, candidates=candidates, model=model)
    position = int(np.flatnonzero(page.items == item)[0])
    found: JsonObject = {"item": served.catalogue.named(item)}
    if page.fallback:
        found |= {"rank": position + 1, "score": float(page.scores[position])}
        return found | {"fallback": True, "used_fold_in": False, "reasons": []}
    # an index may miss items: those that it puts behind this one do not count as ranked above it
    missed = page.items[position + 1 :][page.scores[position + 1 :] > page.scores[position]]
    filtered = np.zeros(0, np.int64) if candidates is None else np.flatnonzero(~candidates)
    try:
        with parallel_kernels():
            subject = _subject(served, user, None if history is None else served.run.informative_history(history))
            explanation = served.explainer(model).explain(
                [item],
                **subject,
                exclude_items=np.concatenate([interacted, missed, served.run.unscorable_items, filtered]).tolist(),
                n=n,
                ranked_list=page[:2],
            )[0]
    except RequestError:
        raise
    except InputError as error:
        raise RequestError(422, error.what, where=error.where, expected=error.expected, found=error.found) from error
    return found | {
        "rank": _as_integer(explanation.rank),
        "score": explanation.score,
        "fallback": False,
        "used_fold_in": explanation.by_fold_in,
        "reasons": [_as_json(served, explanation, reason) for reason in explanation.reasons],
    }


def _check_listed(served: ServedModel, item: int, interacted: Rows, candidates: Mask | None) -> None:
    """Refuse an item that the list does not contain.

    Raises:
        RequestError: see there.
    """
    if item in interacted:
        what, expected = "item was chosen already", "one that is not in the history"
    elif candidates is not None and not candidates[item]:
        what, expected = "item does not fit the filters", "one of the list"
    elif item in served.run.unscorable_items:
        what = "item is in no list"
        expected = "one with interactions, or with a relation or feature that the model reads"
    else:
        return
    found = shortened_repr(served.catalogue.item_ids[item])
    raise RequestError(422, what, where="item", expected=expected, found=found)


def _subject(served: ServedModel, user: int | None, history: Int64 | None) -> dict[str, Any]:
    """Arguments of ``Explainer.explain``: a user's row, or the history that the list was computed from."""
    if user is None:
        return {"history": cast("Int64", history).tolist()}
    session = np.zeros(0, np.int64) if history is None else history
    if served.run.lists_from_full_history:
        return {"history": [*served.run.full_history(user).tolist(), *session.tolist()]}
    if not session.size:
        return {"user": user}
    # the list may come from more than these items: a user vector, relations, weights
    together = append_session(served.model, served.run.train_history(user), session)
    return {"history": together.tolist(), "history_is_proxy": not accepts_longer_history(served.model)}


def _as_json(served: ServedModel, explanation: Explanation, reason: Reason) -> JsonObject:
    through = []
    for node, row in reason.through:
        key = served.graph.nodes[node].keys[row]
        is_item = node == served.graph.item
        name = served.catalogue.titles[row] if is_item else served.node_names.get(node, {}).get(str(key))
        through.append({"type": node, "id": key if isinstance(key, int) else str(key), "name": name})
    without_link = None if reason.rank_without_link is None else _as_integer(reason.rank_without_link)
    return {
        "via": served.catalogue.named(reason.via),
        "relation": reason.relation,
        "through": through,
        "strength": reason.strength,
        "rank_after_removal": _as_integer(reason.rank_without),
        "score_after_removal": reason.score_without,
        "rank_without_link": without_link,
        "score_without_link": reason.score_without_link,
        "exact": reason.exact,
        "sentence": _sentence(served, explanation, reason, through),
    }


def _sentence(served: ServedModel, explanation: Explanation, reason: Reason, through: Sequence[JsonObject]) -> str:
    """The path and its counterfactual in one sentence."""
    titles, ids = served.catalogue.titles, served.catalogue.item_ids
    via, item = (f"“{titles[row] or ids[row]}”" for row in (reason.via, explanation.item))
    if reason.relation == "interactions":
        link = f"{via} and {item} are chosen by the same people"
    elif not through:
        link = f"{via} and {item} are linked by {reason.relation}"
    else:
        nodes = ", ".join(f"{node['type']} {node['name'] or node['id']}" for node in through)
        verb = "share" if len(through) == 1 else "are joined by"
        link = f"{via} and {item} {verb} {nodes} ({reason.relation})"
    drop = _drop(explanation.rank, reason.rank_without)
    if reason.rank_without_link is None:
        drop = f"without that choice {drop}"
    else:
        link_drop = _drop(explanation.rank, reason.rank_without_link)
        drop = f"without the link alone {link_drop}, without link and choice {drop}"
    return f"{link}; {drop}{'' if reason.exact else ' (by deletion, not trained again)'}."


def _drop(before: float, after: float) -> str:
    """A change of rank in words."""
    if before == after:
        return f"it loses score, at place {_as_integer(before)} still"
    return f"it falls from place {_as_integer(before)} to {_as_integer(after)}"


def _as_integer(rank: float) -> float | int:
    """A rank as an integer, unless ties make it fractional."""
    return int(rank) if float(rank).is_integer() else rank
