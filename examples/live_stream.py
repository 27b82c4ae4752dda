"""
A live stream that drifts and breaks
====================================

A live stream that drifts and breaks: learned batch by batch, and watched while it comes.

Run it in an empty folder: ``python live_stream.py``. It needs ``streamgmm[plot]``.
It writes ``model.gmm`` and ``stream.png``.

The stream is simulated: a pump reports its power and temperature a thousand times per hour, for
ten days. It is idle, or runs at half load or full load. From the fourth day on its bearings wear,
and it becomes warmer day by day. After the seventh day its fan fails, and it is throttled.
"""

import numpy as np
from matplotlib.figure import Figure

from streamgmm import OnlineGaussianMixture
from streamgmm.plotting import plot_convergence, plot_mixture, save_picture

HOUR, DAY = 1_000, 24_000
SHARES = np.array([0.25, 0.45, 0.3])
POWER, TEMPERATURE = np.array([1.0, 5.5, 9.0]), np.array([28.0, 46.0, 58.0])
SPREADS = np.array([[0.25, 1.5], [0.8, 2.0], [0.6, 2.5]])

random = np.random.default_rng(0)


def an_hour_of_rows(hour):
    """Return the reports of an hour: power in kW and temperature in °C."""
    day = hour / 24
    regimes = random.choice(3, HOUR, p=SHARES)
    power = POWER * (0.85 if day >= 7 else 1.0)
    wear = 2.0 * np.clip(day - 3, 0, 4)
    temperature = TEMPERATURE + wear + (7.0 if day >= 7 else 0.0)
    noise = SPREADS[regimes] * random.normal(size=(HOUR, 2))
    noise[:, 1] += 2.0 * noise[:, 0]
    return np.column_stack([power[regimes], temperature[regimes]]) + noise


# %%
# A row counts half after a day, so the model follows the wear and forgets the past.

model = OnlineGaussianMixture(n_components=3, half_life=DAY, random_state=0)

moments = {72: "day 3, as new", 168: "day 7, worn", 171: "3 hours later", 240: "day 10"}
figure = Figure(figsize=(13.0, 8.0), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=(1.2, 1.0))
panels = dict(zip(moments, above.subplots(1, 4, sharex=True, sharey=True), strict=True))

latest = []
for hour in range(240):
    rows = an_hour_of_rows(hour)
    model.partial_fit(rows)
    latest = [*latest[-2:], rows]
    if hour + 1 in moments:
        panel = plot_mixture(model, np.concatenate(latest), ax=panels[hour + 1])
        panel.set_title(moments[hour + 1])

# %%
# The model reports where the stream changed. Its components are those of the last days.

for change in model.changes_:
    print(f"the stream changed before row {change:,.0f}: day {1 + change / DAY:.2f}")
print("power, kW; temperature, °C; part of the time")
for mean, weight in zip(model.means_, model.weights_, strict=True):
    print(f"{mean[0]:9.1f} {mean[1]:16.1f} {weight:17.2f}")
model.save("model.gmm")

# %%
# Above, the model at four moments; below, how well it predicted the rows before it learned them.

for panel in panels.values():
    panel.set(xlim=(-1, 12), ylim=(20, 82), xlabel="power, kW", ylabel="temperature, °C")
    panel.label_outer()
    panel.get_legend().remove()
above.suptitle("The last three hours of rows, and the components: one and two standard deviations")
history = plot_convergence(model, below.subplots())
history.set_title("How well the model predicted the rows")
save_picture(history, "stream.png")
