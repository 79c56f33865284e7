"""A batch's rows on several cores: the same as on one, whatever is given and returned."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from erase_core.cores import share_rows


@pytest.fixture(autouse=True, params=[2, 3])
def cores(request) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_rows_come_back_in_their_order(cores: int) -> None:
    """Of a number that the cores do not divide, each core having a part of its own."""
    rows, seen = torch.arange(13.0).reshape(13, 1).expand(13, 3), []

    def work(part: torch.Tensor, names: list[str]) -> torch.Tensor:
        seen.append(names)
        assert torch.get_num_threads() == 1 and not torch.is_grad_enabled()
        return part * torch.tensor([len(name) for name in names])[:, None]

    names = ["x" * number for number in range(13)]
    found = share_rows(work, rows, names)
    assert torch.equal(found, rows * torch.arange(13)[:, None])
    assert len(seen) == cores and sorted(sum(seen, [])) == names
    assert torch.get_num_threads() == cores


def test_several_results() -> None:
    first, second = share_rows(lambda part: (part + 1, part.double()), torch.arange(9))
    assert torch.equal(first, torch.arange(1, 10)) and torch.equal(second, torch.arange(9).double())


def test_few_rows_are_not_shared() -> None:
    calls = []
    found = share_rows(lambda part: calls.append(len(part)) or part, torch.arange(7))
    assert calls == [7] and torch.equal(found, torch.arange(7))
