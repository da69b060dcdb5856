"""How many tokens of one forward pass a device is fastest with."""

from __future__ import annotations

import logging
from collections.abc import Callable

from raydistill.engines.engine import Engine, Inputs, is_for_memory, tokens_per_second
from raydistill.errors import first_line

logger = logging.getLogger(__name__)

LEAST = 1024  # tokens; below that a GPU waits for its next kernel
NEAR = 0.97  # of the best rate is as good: a smaller batch takes less memory, and pads less
# A small batch stays in the cache of a CPU: on two cores, with teachers of 0.4M and 22M parameters in PyTorch and
# OpenVINO, 2,048 tokens were within 10 % of the best, and fewer hardly better; 16,000 were up to 1.5 times slower. More
# cores, or faster ones, may want more to share out: so larger batches are tried where one of 2,048 is soon done, and
# taken where they gain more than two measurements of a CPU differ by.
CPU_LEAST, CPU_NEAR, SOON_SECONDS = 2048, 0.9, 0.1


def cpu_budget(engine: Engine, batch_of: Callable[[int], Inputs], most: int) -> int:
    """As `measured_budget`, on a CPU: in a second or a few."""
    least = min(CPU_LEAST, most)

    def rate(tokens: int, rounds: int) -> float:
        return tokens_per_second(engine, [batch_of(tokens)], rounds)

    try:
        for tokens in (least // 4, least):  # a large teacher takes seconds for either
            if tokens / rate(tokens, rounds=1) > SOON_SECONDS:
                return least
        found = measured_budget(engine, batch_of, most, least, CPU_NEAR)
        # Once more, for another process may have had the CPU for a while: what is found is kept for good.
        return found if found == least or CPU_NEAR * rate(found, rounds=3) > rate(least, rounds=3) else least
    except Exception as error:
        if not is_for_memory(engine, error):
            raise
        return least  # not even that fits; scoring halves it until one does


def measured_budget(
    engine: Engine, batch_of: Callable[[int], Inputs], most: int, least: int = LEAST, near: float = NEAR
) -> int:
    """The smallest budget that comes near the best rate, of the least and its doublings to `most`.

    Larger ones are tried while they gain, so what is much too large is never tried.

    Args:
        batch_of: makes a batch of about so many tokens, none of it padding.
        most: what the memory may be asked for.
        near: the share of the best rate that is as good.
    """
    rates: dict[int, float] = {}
    budget = min(least, most)
    while True:
        try:
            rates[budget] = tokens_per_second(engine, [batch_of(budget)])
        except Exception as error:
            if not rates and not is_for_memory(engine, error):
                raise
            logger.info("%s tokens a batch: %s", budget, first_line(error))
            break
        smaller = [rate for tried, rate in rates.items() if tried <= budget // 4]
        if budget >= most or (smaller and rates[budget] * near <= max(smaller)):
            break
        budget = min(2 * budget, most)
    engine.recover()  # the memory of the largest is not needed any more
    if not rates:
        return budget  # not even the smallest fits; scoring halves it until one does
    chosen = min(tried for tried, rate in rates.items() if rate >= near * max(rates.values()))
    logger.info("%s tokens a batch, of %s", chosen, {tried: round(rate) for tried, rate in rates.items()})
    return chosen
