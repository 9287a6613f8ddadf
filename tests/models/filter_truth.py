"""What holds for every graph filter with relations of items."""

import pytest
import torch

from relrank.errors import InputError
from relrank.testing import planted_graph


class FilterTruth:
    """Subclass it with ``kind``, and with ``unused``: relations of ``graph`` that lead to no item."""

    unused = ("near",)

    def scores(self, graph, **config):
        return self.kind(graph, self.kind.Config(rank=5, **config)).solve().score(torch.arange(graph.n_users))

    def test_users_are_scored_in_blocks(self):
        model = self.kind(planted_graph(), self.kind.Config(rank=4, weight=0.3)).solve()
        together = model.score(torch.arange(160))
        for users in (torch.tensor([150, 2]), torch.arange(17), torch.arange(60, 130)):
            torch.testing.assert_close(model.score(users), together[users], atol=1e-5, rtol=0)

    def test_weight_0_excludes_the_relation(self, graph):
        with_all = self.scores(graph, weight=0.5)
        for name in graph.relations:
            without = self.scores(graph.without(name), weight=0.5)
            assert torch.equal(self.scores(graph, weight=0.5, weights={name: 0.0}), without)
            assert name in self.unused or not torch.allclose(with_all, without, atol=1e-4)

    def test_relations_have_no_weight_by_default(self, graph):
        assert torch.equal(self.scores(graph), self.scores(graph.only()))

    def test_grids_contain_their_starts(self, graph):
        for parameter in self.kind.grid_parameters(graph):
            assert parameter.start in parameter.grid_values
            assert list(parameter.grid_values) == sorted(set(parameter.grid_values))
            assert parameter.start == 0 or not parameter.name.startswith("weights.")

    @pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
    def test_weights_must_not_be_negative(self, graph, weight):
        with pytest.raises(InputError, match="has_tag"):
            self.scores(graph, weights={"has_tag": weight})
