"""A proposal put to the test: the study file is read, its graph is built and audited, as a study would."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from relrank.discovery.proposal import Finding, Proposal
from relrank.discovery.writing import without_relation
from relrank.errors import InputError
from relrank.study.config import read_study
from relrank.study.leaks import leaks_of
from relrank.study.prepare import prepare

MOST_ROUNDS = 30


def verified(proposal: Proposal, write: Callable[[Proposal], Path]) -> Proposal:
    """The proposal without the relations that leak, or that no edge is left of; the file is written anew.

    Args:
        proposal: to be tested.
        write: writes a proposal and returns the study file.

    Raises:
        InputError: the study cannot run for another reason.
    """
    for _ in range(MOST_ROUNDS):
        path = write(proposal)
        config = read_study(path)
        config = config.model_copy(
            update={"study": config.study.model_copy(update={"seeds": config.study.seeds[:1]})}
        )
        try:
            data = prepare(config, path.parent)
        except InputError as error:
            name = re.match(r"relation '(.+?)'", error.where)
            if name is None or name[1] not in config.relations:
                raise
            finding = Finding("left out", name[1], f"{error.what}: {error.found[:150]}")
            proposal = without_relation(proposal, name[1], finding)
            continue
        leaks = [f for f in leaks_of(data.findings) if any(n in config.relations for n in f.names)]
        if not leaks:
            return proposal
        for leak in leaks:
            for relation in leak.names:
                if relation in proposal.config.get("relations", {}):
                    finding = Finding("leak", relation, f"{leak.message} ({leak.remedy})", leak.count)
                    proposal = without_relation(proposal, relation, finding)
    raise InputError("study does not run", where=str(path), expected="relations without leaks", found="leaks")
