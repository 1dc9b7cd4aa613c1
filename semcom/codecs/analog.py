"""The analog codec: embeddings as power-normalised I/Q symbols, and what a channel does to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from semcom.codecs.checks import check_embeddings, check_lengths
from semcom.codecs.metric import ErrorMetric
from semcom.contracts import SemcomError

BYTES_PER_SYMBOL = 8
_LARGEST = torch.finfo(torch.float32).max
_HIDDEN_DIM = 64
_NUM_STEPS, _BATCH_SIZE, _LEARNING_RATE = 1000, 512, 3e-3


def over_equalised_channel(
    x: torch.Tensor, gain: torch.Tensor, noise: torch.Tensor, *, biased: bool = True
) -> torch.Tensor:
    """What an equaliser that knows the channel makes of y = h x + n: differentiable in x and gain.

    x [..., n, 2]: I and Q of symbols with E |x|^2 = 1. gain [..., n]: the sum of |h|^2 over the antennas
    and repetitions that carry a symbol, the noise having unit power: its SNR. noise [..., n, 2]: standard
    normal. Maximum-ratio combining gives x + w with w ~ CN(0, 1 / gain); the LMMSE estimate (biased) is
    gain / (gain + 1) of that and errs by 1 / (1 + gain) in the mean square, zero forcing by 1 / gain.
    Source: Tse and Viswanath, Fundamentals of Wireless Communication, 3.1 and 8.3.
    """
    gain = gain[..., None]
    if biased:
        return (gain * x + (gain / 2).sqrt() * noise) / (gain + 1)
    return x + noise / (2 * gain).sqrt()


class _SkipNet(nn.Module):
    """A linear map plus a perceptron that starts at zero, float64: the same row gives the same bits."""

    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_dim, output_dim, bias=False, dtype=torch.float64)
        self.hidden = nn.Linear(input_dim, _HIDDEN_DIM, dtype=torch.float64)
        self.output = nn.Linear(_HIDDEN_DIM, output_dim, dtype=torch.float64)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.output(torch.tanh(self.hidden(x)))


class AnalogCodec(nn.Module):
    """Maps an embedding to n complex symbols of mean power one, and what was received back to an embedding.

    Without a training SNR it is linear. The dimensions, standardised, are I and Q of one symbol after the
    other; if there are more of them, their leading 2 n principal components are. A codec made `weighted`
    measures its error by the task's weight (ErrorMetric) and gives its components y_i the gain
    (E y_i^2)^(-1/4) instead, which at high SNR is the best that a linear map can do (Lee and Petersen,
    Optimal linear coding for vector channels, IEEE Trans. Commun. 24(12), 1976). With `snr_db` both maps get
    a perceptron each and are trained by `fit` through the differentiable channel, at that Es/N0 of a symbol
    after combining: joint source-channel coding as of Bourtsoulatze, Kurka and Gunduz, Deep joint
    source-channel coding for wireless image transmission, IEEE Trans. Cogn. Commun. Netw. 5(3), 2019.

    The payload is I and Q of each symbol as IEEE 754 binary32, big-endian, for the link `analog`, which
    sends the numbers themselves; over another link they are sent as 64 n bits. In training mode
    forward(z, noise) passes that channel, which is how an encoder is trained together with it.

    encode: z float32 [N, D] to N payloads of 8 n bytes; decode: back to float32 [N, D]. Call `fit` first.
    Raises SemcomError before `fit`, for embeddings that are not finite [N, D], for payloads of another length
    or that hold NaN or infinity.
    """

    codec_id = 9
    name = "analog"
    mean: torch.Tensor
    scale: torch.Tensor
    amplitude: torch.Tensor

    def __init__(
        self,
        embedding_dim: int,
        num_symbols: int | None = None,
        snr_db: float | None = None,
        *,
        weighted: bool = False,
    ) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.num_symbols = num_symbols or -(-embedding_dim // 2)
        self.snr_db = snr_db
        self.metric = ErrorMetric(embedding_dim, weighted=weighted)
        # Where the perceptrons start is fixed, and the process-wide generator stays where it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.sender = _SkipNet(embedding_dim, 2 * self.num_symbols)
            self.receiver = _SkipNet(2 * self.num_symbols, embedding_dim)
        self.register_buffer("mean", torch.full((embedding_dim,), torch.nan, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(embedding_dim, dtype=torch.float64))
        self.register_buffer("amplitude", torch.ones((), dtype=torch.float64))

    def fit(self, z: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Learns scales and, at a training SNR, both maps from embeddings z [N, D].

        They are trained for the mean squared error of the standardised embedding, or for the weighted one:
        see FittedCodec. Raises SemcomError for no rows, and as ErrorMetric does.
        """
        z = check_embeddings(z.detach(), self.embedding_dim).to(self.mean.device)
        if z.shape[0] == 0:
            raise SemcomError("a codec can't be fitted on no embeddings: give it at least one row")
        self.metric.fit(z, weight)
        rows = self.metric.apply_to(z).double()
        spread = rows.std(dim=0, correction=0)
        # Under a weight all components have one scale: how large each is says how much it matters.
        scale = spread.square().mean().sqrt().expand_as(spread) if self.metric.weighted else spread
        self.mean.copy_(rows.mean(dim=0))
        # A dimension that never varied is its mean: nothing of it needs to be sent.
        self.scale.copy_(torch.where(scale > 0, scale, 1.0))
        self._start_linear((rows - self.mean) / self.scale)
        if self.snr_db is not None:
            self._train_maps(rows)
        with torch.no_grad():
            power = 2 * self._symbols(z).square().mean()
            self.amplitude.copy_(power.sqrt() if power > 0 else torch.ones(()))
            if self.snr_db is None:
                # A trained receiver knows symbols of power one already.
                self.receiver.linear.weight.mul_(self.amplitude)

    @torch.no_grad()
    def _start_linear(self, rows: torch.Tensor) -> None:
        num, dim = 2 * self.num_symbols, self.embedding_dim
        forward = inverse = torch.eye(dim, dtype=torch.float64)
        if self.metric.weighted:
            # They are uncorrelated already, the smallest first.
            gain = rows.square().mean(dim=0).clamp_min(1e-12) ** -0.25
            forward, inverse = torch.diag(gain).flip(0)[:num], torch.diag(1 / gain).flip(1)[:, :num]
        elif num < dim:
            vectors = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1).T
            # An eigenvector's sign is arbitrary: fix it.
            largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
            forward = (vectors * torch.sign(largest))[:num]
            inverse = forward.T
        for net, weight in ((self.sender, forward), (self.receiver, inverse)):
            nn.init.zeros_(net.linear.weight)
            net.linear.weight[: weight.shape[0], : weight.shape[1]] = weight
            nn.init.zeros_(net.output.weight)
            nn.init.zeros_(net.output.bias)
        self.amplitude.fill_(1.0)

    def _train_maps(self, rows: torch.Tensor) -> None:
        """Trains sender and receiver through the channel, on batches whose power is normalised."""
        assert self.snr_db is not None
        generator = torch.Generator().manual_seed(0)
        gain = torch.full((_BATCH_SIZE, self.num_symbols), 10 ** (self.snr_db / 10), dtype=torch.float64)
        standardised = (rows - self.mean) / self.scale
        trained = nn.ModuleList((self.sender, self.receiver))
        optimiser = torch.optim.Adam(trained.parameters(), _LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _NUM_STEPS)
        with torch.enable_grad():
            for _ in range(_NUM_STEPS):
                batch = standardised[torch.randint(0, len(rows), (_BATCH_SIZE,), generator=generator)]
                x = self.sender(batch)
                x = x / (2 * x.square().mean()).sqrt()
                noise = torch.randn(
                    _BATCH_SIZE, self.num_symbols, 2, generator=generator, dtype=torch.float64
                )
                received = over_equalised_channel(x.unflatten(1, (-1, 2)), gain, noise).flatten(1)
                loss = (self.receiver(received) - batch).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()

    def _check_fitted(self) -> None:
        if self.mean.isnan().any():
            raise SemcomError("this codec has no scales yet: call fit(z) with training embeddings first")

    def _symbols(self, z: torch.Tensor) -> torch.Tensor:
        return self.sender((self.metric.apply_to(z).double() - self.mean) / self.scale) / self.amplitude

    def symbols(self, z: torch.Tensor) -> torch.Tensor:
        """Returns I and Q of the symbols of z [N, D], float32 [N, n, 2]; their mean |x|^2 is one."""
        self._check_fitted()
        return self._symbols(check_embeddings(z, self.embedding_dim)).float().unflatten(1, (-1, 2))

    def embedding(self, symbols: torch.Tensor) -> torch.Tensor:
        """Returns the embeddings, float32 [N, D], that received symbols [N, n, 2] stand for."""
        self._check_fitted()
        y = self.receiver(symbols.double().flatten(1)) * self.scale + self.mean
        # Noise may blow a number up to where float32 ends, but not beyond.
        z = self.metric.invert(y.clamp(-_LARGEST, _LARGEST).float())
        return z.clamp(-_LARGEST, _LARGEST)

    def encode(self, z: torch.Tensor) -> list[bytes]:
        """Returns one payload of 8 n bytes for each row of z [N, D]."""
        symbols = self.symbols(z).detach().cpu().flatten(1).numpy()
        return [row.tobytes() for row in symbols.astype(">f4")]

    def decode(self, payloads: Sequence[bytes]) -> torch.Tensor:
        """Returns the embeddings, float32 [N, D]."""
        self._check_fitted()
        check_lengths(payloads, BYTES_PER_SYMBOL * self.num_symbols)
        numbers = np.frombuffer(b"".join(payloads), ">f4").astype(np.float32)
        numbers = numbers.reshape(-1, self.num_symbols, 2)
        bad = ~np.isfinite(numbers).all(axis=(1, 2))
        if bad.any():
            raise SemcomError(f"payload {int(bad.argmax())} holds NaN or infinity: no codec sends that")
        with torch.no_grad():
            return self.embedding(torch.from_numpy(numbers).to(self.mean.device))

    def entropy_bits(self, z: torch.Tensor) -> torch.Tensor:
        """Returns zeros [N]: numbers are sent, and no bits."""
        return torch.zeros(z.shape[0], device=z.device)

    def payload_entropy_bits(self, payloads: Sequence[bytes]) -> torch.Tensor:
        """Returns zeros [N], as entropy_bits does."""
        return torch.zeros(len(payloads))

    def max_payload_bits(self) -> int:
        """Returns 64 n, the size of every payload; over the link `analog` none of them is sent as a bit."""
        return 8 * BYTES_PER_SYMBOL * self.num_symbols

    def forward(self, z: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Returns z [N, D] as received, float32, with its gradient.

        noise: standard normal [N, n, 2], for the channel at `snr_db`; without it the channel is perfect.
        """
        x = self.symbols(z)
        if noise is not None and self.snr_db is not None:
            gain = torch.full(x.shape[:-1], 10 ** (self.snr_db / 10), device=x.device)
            x = over_equalised_channel(x, gain, noise)
        return self.embedding(x)
