"""The arithmetic of a mixture: rates from sizes, amounts from rates and limits, whole rows from amounts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ConfigError

# Shares are sums and products of floats: what is this near to a whole row is that row.
NEAR = 1e-6


def mixing_rates(
    sizes: Sequence[float],
    cap: float | Sequence[float] | None = None,
    temperature: float = 1.0,
    weights: Sequence[float] | None = None,
) -> np.ndarray:
    """How often each source is drawn from: p_i ∝ min(n_i, cap)^(1/T), or explicit weights.

    T=1 is examples-proportional mixing; the larger T, the more equal the sources. The cap comes before the root, as
    in T5 (Raffel et al. 2020, section 3.5.2) and in seqio.

    Args:
        sizes (`Sequence[float]`): Rows (or tokens) of each source, shape (n,).
        cap (`float` or `Sequence[float]`, *optional*):
            Largest size that counts, one for all or one per source. It lowers the rate only; no row is left out.
        temperature (`float`, *optional*, defaults to 1.0): T above.
        weights (`Sequence[float]`, *optional*): Explicit weights, shape (n,), instead of cap and temperature.

    Returns:
        `np.ndarray`: float64 of shape (n,), with sum 1.

    Raises:
        ConfigError: For no source, a negative or non-finite number, weights or sizes that are all zero, a cap of 0,
            or a temperature of 0 or less.
    """
    numbers = _numbers("sizes", sizes)
    if not isinstance(temperature, int | float | np.number) or not 0 < temperature < np.inf:
        raise ConfigError(f"temperature={temperature!r}: a number above 0 is allowed; 1 leaves the proportions alone.")
    caps = np.inf if cap is None else np.asarray(cap, dtype=np.float64)
    if np.any(np.isnan(caps)) or np.any(caps <= 0):
        raise ConfigError(f"cap={cap}: a number above 0 is allowed, or leave it out. A cap of 0 would draw nothing.")
    if weights is None:
        capped = np.minimum(numbers, caps)
        if not capped.any():
            raise ConfigError(f"sizes={_few(sizes)}: at least one source must have rows.")
        raised = (capped / capped.max()) ** (1 / temperature)
        return raised / raised.sum()
    given = _numbers("weights", weights)
    if len(given) != len(numbers):
        raise ConfigError(f"{len(given)} weights for {len(numbers)} sources: give one each.")
    if np.any(np.isfinite(caps)) or temperature != 1:
        raise ConfigError(
            f"weights together with cap={cap}, temperature={temperature}: explicit weights are taken as they are. "
            "Leave out the weights, or the cap and the temperature."
        )
    if not given.any():
        raise ConfigError(f"weights={_few(weights)}: all are zero; at least one must be above 0.")
    return given / given.sum()


def water_fill(rates: np.ndarray, room: np.ndarray, amount: float) -> np.ndarray:
    """Divides `amount` by `rates`; a source that is full keeps its room, and the others share the rest by their rates.

    Args:
        rates (`np.ndarray`): Shape (n,), with sum 1.
        room (`np.ndarray`): Shape (n,), largest amount each can take; `inf` for no limit.
        amount (`float`): What is to be divided; where there is less room in all, everything ends up full.

    Returns:
        `np.ndarray`: Shape (n,).
    """
    filled = np.zeros(len(rates))
    open_ = rates > 0
    left = amount
    while open_.any() and left > 0:
        offered = np.where(open_, rates * (left / rates[open_].sum()), 0.0)
        full = open_ & (offered >= room)
        if not full.any():
            filled[open_] = offered[open_]
            break
        filled[full] = room[full]
        open_ &= ~full
        left = amount - filled.sum()
    return filled


def largest_remainder(parts: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers with sum `total`, each the one below or above its part; the largest remainders are rounded up.

    Args:
        parts (`np.ndarray`): Shape (n,), whose sum is `total` but for rounding.
        total (`int`): The sum asked for. On equal remainders the earlier one is rounded up.

    Returns:
        `np.ndarray`: int64 of shape (n,).
    """
    whole = np.floor(parts + NEAR).astype(np.int64)
    short = total - int(whole.sum())
    # Rounded, so that the noise of another processor does not decide a tie.
    order = np.argsort(-np.round(parts - whole, 6), kind="stable")
    if short >= 0:
        whole[order[:short]] += 1
    else:
        whole[order[short:]] -= 1
    return whole


def _numbers(name: str, values: Sequence[float]) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers):
        raise ConfigError(f"{name}={_few(values)}: a list of at least one number is needed.")
    if not np.isfinite(numbers).all() or (numbers < 0).any():
        raise ConfigError(f"{name}={_few(values)}: numbers of 0 or more are allowed, neither negative nor NaN.")
    return numbers


def _few(values: Sequence[float]) -> str:
    shown = np.asarray(values, dtype=object).ravel()[:10].tolist()
    return f"{shown}" if np.size(values) <= 10 else f"{shown[:-1]}... ({np.size(values)} in all)"
