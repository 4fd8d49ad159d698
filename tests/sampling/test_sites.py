"""Every kind of site that a network may have: found, named, sampled with its law, and equal to the module itself."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.sampling import Sampler, prepare
from service.sampling.marks import SATURATION, alpha_scale


def encoder(layers: int = 1, p: float = 0.1, **options: bool) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=p, batch_first=True, **options)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


class Attention(nn.Module):
    """Rows first or time first; with weights asked for, heads are folded into the rows."""

    def __init__(self, weights: bool, batch_first: bool = True) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 4, dropout=0.2, batch_first=batch_first)
        self.weights, self.batch_first = weights, batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        y = self.attend(x, x, x, need_weights=self.weights)[0]
        return y if self.batch_first else y.transpose(0, 1)


class GroupedCausal(nn.Module):
    """Attention by the functional, a key head for two query heads, no key from the future."""

    def forward(self, x: Tensor) -> Tensor:
        query = x.view(x.shape[0], 6, 4, 4).transpose(1, 2)
        key = x[:, :, :8].view(x.shape[0], 6, 2, 4).transpose(1, 2)
        p = 0.2 if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, key, dropout_p=p, is_causal=True, enable_gqa=True)


class Padded(nn.Module):
    """Tokens, some of them padding that attention must not see."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encode, self.head = nn.Embedding(10, 16), encoder(), nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        padding = ids == 0
        hidden = self.encode(self.embed(ids), src_key_padding_mask=padding)
        kept = (~padding).unsqueeze(-1).float()
        return self.head((hidden * kept).sum(1) / kept.sum(1).clamp_min(1))


class ClassToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 16))
        self.encode, self.head = encoder(norm_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encode(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1))[:, 0])


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decode = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 32, dropout=0.1, batch_first=True), 1)

    def forward(self, target: Tensor, memory: Tensor) -> Tensor:
        return self.decode(target, memory)


class Recurrent(nn.Module):
    """Output and last state of a stack of recurrent layers."""

    def __init__(self, kind: type[nn.RNNBase], batch_first: bool = True, both: bool = False, **options: int) -> None:
        super().__init__()
        self.memory = kind(8, 6, 3, dropout=0.3, batch_first=batch_first, bidirectional=both, **options)
        self.head = nn.Linear(options.get("proj_size", 6) * (1 + both), 2)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        output, state = self.memory(x if self.batch_first else x.transpose(0, 1))
        last = output[:, -1] if self.batch_first else output[-1]
        state = state if isinstance(state, Tensor) else state[0]
        return self.head(last) + state[-1].sum(-1, keepdim=True)


class DropPath(nn.Module):
    """Stochastic depth as it is usually written: a Bernoulli number a row, divided by its chance."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.8)
        return x * keep.div_(0.8)


class DropPathFloor(nn.Module):
    """The same from a uniform number, as older code has it."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x.div(0.8) * (0.8 + torch.rand((x.shape[0],) + (1,) * (x.ndim - 1))).floor_()


class DropPathCompare(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(x.shape[0], 1) > 0.2).float() / 0.8 if self.training else x


class LockedDropout(nn.Module):
    """One mask for all time steps of a row."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x.new_empty(x.size(0), 1, x.size(2)).bernoulli_(0.7).div_(0.7).expand_as(x) * x


class Residual(nn.Module):
    def __init__(self, drop: nn.Module) -> None:
        super().__init__()
        self.inner, self.drop = nn.Linear(8, 8), drop

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.inner(x))


class TimeDistributed(nn.Module):
    """Time steps folded into the rows, from either side."""

    def __init__(self, rows_outer: bool) -> None:
        super().__init__()
        self.inner, self.drop, self.rows_outer = nn.Linear(4, 6), nn.Dropout(0.3), rows_outer

    def forward(self, x: Tensor) -> Tensor:
        if self.rows_outer:
            return self.drop(self.inner(x.reshape(-1, 4))).reshape(x.shape[0], -1)
        return self.drop(self.inner(x.transpose(0, 1).reshape(-1, 4))).reshape(5, x.shape[0], 6).transpose(0, 1)


class Named(nn.Module):
    """Several outputs, one of them the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.drop(x)
        return {"hidden": hidden, "logits": self.head(hidden)}


class Packed(nn.Module):
    """Rows of different lengths: cannot be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(6, 2)
        self.memory = nn.LSTM(8, 6, 2, dropout=0.3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        lengths = (x[:, :, 0] > -1.0).sum(1).clamp_min(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(self.drop(x), lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.memory(packed)[1][0][-1])


class Branching(nn.Module):
    """An `if` on data: cannot be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.drop = nn.Linear(4, 3), nn.Linear(4, 3), nn.AlphaDropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.one(x) if x[0, 0] > 0 else self.other(x))


SELU = nn.Sequential(nn.Linear(8, 8), nn.SELU(), nn.AlphaDropout(0.2), nn.Linear(8, 8), nn.FeatureAlphaDropout(0.1),
                     nn.Linear(8, 2))
SEQUENCE = (5, 16)
NETWORKS = {
    "attention": (Attention(False), SEQUENCE, [("attend.dropout", "attention", 0.2, (4, 5, 5))]),
    "attention with weights": (Attention(True), SEQUENCE, [("attend.dropout", "dropout", 0.2, (4, 5, 5))]),
    "attention, time first": (Attention(True, False), SEQUENCE, [("attend.dropout", "dropout", 0.2, (4, 5, 5))]),
    "grouped causal attention": (GroupedCausal(), (6, 16), [("dropout", "attention", 0.2, (4, 6, 6))]),
    "class token": (ClassToken(), SEQUENCE, [
        ("encode.layers.0.self_attn.dropout", "attention", 0.1, (2, 6, 6)),
        ("encode.layers.0.dropout1", "dropout", 0.1, (6, 16)), ("encode.layers.0.dropout", "dropout", 0.1, (6, 32)),
        ("encode.layers.0.dropout2", "dropout", 0.1, (6, 16))]),
    "lstm": (Recurrent(nn.LSTM, both=True), (5, 8), [
        ("memory.dropout", "recurrent", 0.3, (5, 12)), ("memory.dropout#2", "recurrent", 0.3, (5, 12))]),
    "lstm with projection": (Recurrent(nn.LSTM, proj_size=4), (5, 8), [
        ("memory.dropout", "recurrent", 0.3, (5, 4)), ("memory.dropout#2", "recurrent", 0.3, (5, 4))]),
    "gru": (Recurrent(nn.GRU), (5, 8), [
        ("memory.dropout", "recurrent", 0.3, (5, 6)), ("memory.dropout#2", "recurrent", 0.3, (5, 6))]),
    "rnn, time first": (Recurrent(nn.RNN, False), (5, 8), [
        ("memory.dropout", "recurrent", 0.3, (5, 6)), ("memory.dropout#2", "recurrent", 0.3, (5, 6))]),
    "alpha": (SELU, (8,), [("2", "alpha_dropout", 0.2, (8,)), ("4", "feature_alpha_dropout", 0.1, (8,))]),
    "drop path": (Residual(DropPath()), (8,), [("drop", "stochastic_depth", 0.2, (1,))]),
    "drop path by floor": (Residual(DropPathFloor()), (8,), [("drop", "stochastic_depth", 0.2, (1,))]),
    "drop path by comparison": (Residual(DropPathCompare()), (8,), [("drop", "stochastic_depth", 0.2, (1,))]),
    "locked dropout": (Residual(LockedDropout()), (5, 8), [("drop", "stochastic_depth", 0.3, (1, 8))]),
    "time in the rows": (TimeDistributed(True), (5, 4), [("drop", "dropout", 0.3, (5, 6))]),
    "rows in the time": (TimeDistributed(False), (5, 4), [("drop", "dropout", 0.3, (5, 6))]),
    "logits of several outputs": (Named(), (4,), [("drop", "dropout", 0.5, (4,))]),
    "packed": (Packed(), (5, 8), [("drop", "dropout", 0.2, (5, 8)), ("memory.dropout", "recurrent", 0.3, (5, 6))]),
    "branching": (Branching(), (4,), [("drop", "alpha_dropout", 0.3, (3,))]),
}
EAGER = {"packed", "branching"}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request) -> tuple[str, nn.Module, Sampler, Tensor]:
    net, shape, _ = NETWORKS[request.param]
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(6))
    return request.param, net, prepare(net, x, task="generic"), x


def plain_pass(net: nn.Module, x: Tensor) -> Tensor:
    output = net(x)
    return output["logits"] if isinstance(output, dict) else output


def test_every_site_is_found_and_named(case) -> None:
    name, _, sampler, _ = case
    assert [(s.name, s.kind, s.p, s.mask_shape) for s in sampler.sites] == NETWORKS[name][2]
    assert not any(site.note for site in sampler.sites)


def test_what_cannot_be_captured_runs_eagerly_and_says_why(case) -> None:
    name, _, sampler, _ = case
    assert bool(sampler.eager_reason) == (name in EAGER)


@pytest.mark.parametrize("masks", ["shared", "independent"])
@pytest.mark.parametrize("design", ["balanced", "iid"])
def test_the_fast_path_is_the_module_itself_with_the_same_masks(case, masks, design) -> None:
    name, _, sampler, x = case
    if name in EAGER:
        pytest.skip("its fast path is the module itself")
    fast = sampler.uncertainty(x, 20, seed=4, masks=masks, design=design, method="sampled")
    slow = sampler.reference(x, 20, seed=4, masks=masks, design=design)
    torch.testing.assert_close(fast.mean, slow.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fast.std, slow.std, atol=1e-5, rtol=1e-5)


def plain_draws(net: nn.Module, row: Tensor, passes: int = 3000, at_once: int = 500) -> Tensor:
    """Train-mode outputs of one row; in a batch of copies every copy has masks of its own."""
    torch.manual_seed(0)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad():
        copies = row.unsqueeze(0).expand(at_once, *row.shape).contiguous()
        draws = [plain_pass(net.train(), copies) for _ in range(passes // at_once)]
    torch.backends.mha.set_fastpath_enabled(fast)
    net.eval()
    return torch.cat(draws).double()


def test_the_std_is_that_of_three_thousand_plain_passes(case) -> None:
    """What a site that is silently off would fail."""
    name, net, sampler, x = case
    samples = 3000 if name not in EAGER else 200
    for row in x[:2]:
        answer, draws = sampler.uncertainty(row.unsqueeze(0), samples, seed=1), plain_draws(net, row)
        plain = draws.std(0)
        ratio = (answer.std[0].square().mean() / plain.square().mean()).sqrt()
        assert abs(float(ratio) - 1) < (0.05 if name not in EAGER else 0.15)
        assert (answer.mean[0] - draws.mean(0)).abs().max() < 6 * float(plain.max()) * (1 / 3000 + 1 / samples) ** 0.5


def test_a_row_alone_equals_itself_in_the_company_of_others(case) -> None:
    _, _, sampler, x = case
    company = sampler.uncertainty(x, 20, seed=2)
    for i in (0, 3):
        alone = sampler.uncertainty(x[i : i + 1], 20, seed=2)
        torch.testing.assert_close(alone.mean[0], company.mean[i], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(alone.std[0], company.std[i], atol=1e-6, rtol=1e-5)


def test_every_site_alone_moves_the_output_as_much_as_plain_passes_say() -> None:
    """Attention weights carry a small part of a transformer's spread, which the other sites would hide."""
    torch.manual_seed(3)
    for name in ("self_attn.dropout", "dropout1", "dropout", "dropout2"):
        net = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        owner = net.self_attn if name == "self_attn.dropout" else getattr(net, name)
        setattr(owner, "dropout" if name == "self_attn.dropout" else "p", 0.3)
        x = torch.randn(2, 5, 8)
        sampler = prepare(net, x, task="generic")
        assert [site.name for site in sampler.sites] == [name]
        plain, answer = plain_draws(net, x[0]).std(0), sampler.uncertainty(x[:1], 3000)
        assert abs(float((answer.std[0].square().mean() / plain.square().mean()).sqrt()) - 1) < 0.05


def test_padding_takes_no_part_and_several_inputs_go_by_name() -> None:
    ids = torch.tensor([[3, 4, 5, 0, 0], [7, 2, 0, 0, 0], [1, 2, 3, 4, 5]])
    sampler = prepare(Padded(), ids, task="classification")
    torch.testing.assert_close(sampler.uncertainty(ids, 20).std, sampler.reference(ids, 20).std, atol=1e-5, rtol=0)
    rows = {"target": torch.randn(3, 4, 16), "memory": torch.randn(3, 6, 16)}
    decoder = prepare(Decoder(), rows, task="generic")
    assert {s.name for s in decoder.sites} >= {
        "decode.layers.0.self_attn.dropout", "decode.layers.0.multihead_attn.dropout"}
    torch.testing.assert_close(
        decoder.uncertainty(rows, 20).std, decoder.reference(rows, 20).std, atol=1e-5, rtol=0)


@pytest.mark.parametrize("feature", [False, True])
def test_alpha_dropout_has_the_mean_and_std_of_all_its_masks(feature) -> None:
    torch.manual_seed(4)
    drop = nn.FeatureAlphaDropout(0.25) if feature else nn.AlphaDropout(0.25)
    net, x = nn.Sequential(drop, nn.Flatten(), nn.Linear(6, 2)), torch.randn(2, 3, 2)
    a, shift = alpha_scale(0.25), alpha_scale(0.25) * SATURATION * 0.25
    values, chances = [], []
    for kept in itertools.product([0, 1], repeat=3 if feature else 6):
        mask = torch.tensor(kept, dtype=torch.float64).view(3, -1)
        dropped = a * (x * mask + SATURATION * (1 - mask)) - shift
        values.append(net[1:](dropped.float()).detach().double())
        chances.append(math.prod(0.75 if k else 0.25 for k in kept))
    chance = torch.tensor(chances, dtype=torch.float64).view(-1, 1, 1)
    mean = (chance * torch.stack(values)).sum(0)
    std = (chance * (torch.stack(values) - mean).square()).sum(0).sqrt()
    answer = prepare(net, x, task="generic").uncertainty(x, 20_000)
    torch.testing.assert_close(answer.mean, mean, atol=0.01, rtol=0)
    torch.testing.assert_close(answer.std, std, rtol=0.02, atol=0)


@pytest.mark.parametrize("chosen", ["encode.layers.0.dropout", "encode.*.self_attn.*", "encode.layers.0.dropout[12]"])
def test_sites_chosen_by_name_sample_and_the_others_are_off(chosen) -> None:
    x = torch.randn(3, *SEQUENCE)
    sampler = prepare(ClassToken(), x, task="classification", sites=[chosen])
    assert 0 < sum(site.active for site in sampler.sites) < 4
    torch.testing.assert_close(sampler.uncertainty(x, 30).std, sampler.reference(x, 30).std, atol=1e-5, rtol=0)


def test_alpha_sites_can_be_left_out_too() -> None:
    x = torch.randn(3, 8)
    sampler = prepare(SELU, x, task="generic", sites=["4"])
    fast, slow = sampler.uncertainty(x, 30, method="sampled"), sampler.reference(x, 30)
    torch.testing.assert_close(fast.std, slow.std, atol=1e-5, rtol=0)


class OwnRange(nn.Module):
    """A normaliser of one's own with a functional dropout: resting in eval mode would switch the dropout off."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.drop = nn.Linear(12, 12), nn.Linear(12, 4), nn.Dropout(0.2)
        self.register_buffer("running_scale", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.drop(F.dropout(self.one(x).relu(), 0.5, self.training) * self.running_scale))


def test_dropout_of_a_module_with_a_running_buffer_is_not_silently_off() -> None:
    sampler = prepare(OwnRange(), torch.randn(3, 12), task="classification")
    assert [(s.name, s.p) for s in sampler.sites] == [("dropout", 0.5), ("drop", 0.2)]


class RecurrentWithoutItsOwn(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.memory, self.drop = kind(8, 6, batch_first=True), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.memory(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_without_dropout_of_its_own_is_part_of_the_prefix(kind) -> None:
    sampler = prepare(RecurrentWithoutItsOwn(kind), torch.randn(3, 5, 8), task="generic")
    assert [s.name for s in sampler.sites] == ["drop"]


@pytest.mark.parametrize("length", [4, 5, 6])
def test_an_axis_as_long_as_the_probe_batch_is_not_taken_for_the_rows(length) -> None:
    x = torch.randn(3, length, 16)
    sampler = prepare(Attention(True, False), x, task="generic")
    torch.testing.assert_close(sampler.uncertainty(x, 20).std, sampler.reference(x, 20).std, atol=1e-5, rtol=0)


def test_half_precision_weights_wrappers_and_numpy_rows_are_served_in_float32() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    x = torch.randn(3, 4)
    expected = prepare(net, x, task="generic").uncertainty(x, 20).std
    wrapped = prepare(nn.DataParallel(net), x.double().numpy(), task="generic")
    torch.testing.assert_close(wrapped.uncertainty(x.double().numpy(), 20).std, expected, atol=1e-6, rtol=0)
    half = prepare(net.bfloat16(), x, task="generic").uncertainty(x, 20).std
    torch.testing.assert_close(half, expected, atol=0.02, rtol=0)


def test_a_network_whose_output_is_one_number_a_row_is_served() -> None:
    net, x = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1), nn.Flatten(0)), torch.randn(3, 4)
    answer = prepare(net, x, task="regression").uncertainty(x, 20)
    assert answer.mean.shape == answer.std.shape == (3,)


class InPlace(nn.Module):
    """In-place dropout on a view whose source is not read again, as image classifiers have it; and on a chain of
    in-place results whose first name is read again."""

    def __init__(self, read_again: bool) -> None:
        super().__init__()
        self.one, self.other, self.read_again = nn.Linear(4, 6), nn.Linear(12, 2), read_again

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.one(x)
        if self.read_again:
            kept = F.dropout(F.relu(hidden, inplace=True), 0.3, self.training, inplace=True)
            return self.other((hidden + kept).flatten(1))
        return self.other(F.dropout(hidden.flatten(1), 0.3, self.training, inplace=True))


class WritesThrough(nn.Module):
    """What a view's in-place dropout wrote into is read again: only the module itself knows what it then holds."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.one(x)
        F.dropout(hidden[:, 0], 0.3, self.training, inplace=True)
        return hidden


@pytest.mark.parametrize(("net", "eager"), [(InPlace(False), False), (InPlace(True), False), (WritesThrough(), True)])
def test_dropout_in_place_is_captured_where_nobody_reads_another_view_of_it(net, eager) -> None:
    x = torch.randn(3, 2, 4)
    sampler = prepare(net, x, task="generic")
    assert bool(sampler.eager_reason) == eager
    answer = sampler.uncertainty(x[:1], 500, method="sampled")
    plain = plain_draws(net, x[0], 1000)
    torch.testing.assert_close(answer.std[0], plain.std(0), rtol=0.15, atol=1e-6)


def test_drop_path_at_the_rate_that_torch_leaves_out_is_sampled() -> None:
    """`bernoulli_(0.5)` shows no rate in the graph, because 0.5 is its default."""
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.new_empty(x.shape[0], 1).bernoulli_(0.5).div_(0.5) if self.training else x

    x = torch.randn(3, 8)
    sampler = prepare(Residual(Half()), x, task="generic")
    assert [(s.kind, s.p) for s in sampler.sites] == [("stochastic_depth", 0.5)]
    torch.testing.assert_close(sampler.uncertainty(x, 20).std, sampler.reference(x, 20).std, atol=1e-5, rtol=0)


class Together(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(7, 2)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.head(F.dropout(torch.cat(inputs, 1), 0.2, self.training))


def test_inputs_that_the_forward_takes_as_a_tuple_are_captured() -> None:
    net, x = Together().eval(), (torch.randn(3, 4), torch.randn(3, 3))
    sampler = prepare(net, x, task="generic")
    assert not sampler.eager_reason
    torch.testing.assert_close(sampler.predict(x), net(*x).detach(), atol=1e-6, rtol=0)
