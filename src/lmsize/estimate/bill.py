"""Money, energy and carbon of accelerator-hours."""

from __future__ import annotations

from typing import Any

from lmsize.formula import formula
from lmsize.source import Source

ML_CO2 = Source(
    "Quantifying the Carbon Emissions of Machine Learning",
    "section 2",
    "https://arxiv.org/abs/1910.09700",
)
PATTERSON = Source(
    "Carbon Emissions and Large Neural Network Training",
    "section 2.1",
    "https://arxiv.org/abs/2104.10350",
)


@formula(source=PATTERSON)
def accelerator_h(*, run_s: Any, n_accelerators: Any) -> Any:
    """Hours of all accelerators together.

    Assumes: all are held for the whole run.
    Valid for: any run.
    """
    return run_s * n_accelerators / 3600


@formula(source=PATTERSON)
def cost_usd(*, accelerator_h: Any, price_usd_per_h: Any) -> Any:
    """Rent of the accelerators.

    Assumes: billed by the second at one price; storage, network and staff are not in it.
    Valid for: rented accelerators, at the price's date.
    """
    return accelerator_h * price_usd_per_h


@formula(source=PATTERSON)
def energy_kwh(*, accelerator_h: Any, draw_w: Any, pue: Any) -> Any:
    """Electricity at the meter of the data centre.

    Assumes: the accelerator draws `draw_w` throughout; hosts and switches are not in it.
    Valid for: busy accelerators; with the board power as draw it is an upper bound for them.
    """
    return accelerator_h * draw_w * pue / 1000


@formula(source=ML_CO2)
def co2e_kg(*, energy_kwh: Any, intensity_g_per_kwh: Any) -> Any:
    """Greenhouse gases of the electricity.

    Assumes: the grid's yearly mean; making the hardware is not in it.
    Valid for: the region and year of the intensity.
    """
    return energy_kwh * intensity_g_per_kwh / 1000
