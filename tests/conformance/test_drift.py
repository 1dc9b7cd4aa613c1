"""The figure of how far clients are from the base station's model."""

import numpy as np
import pandas as pd

from analysis.drift import drift_figure

DROPOUT = "collaboration.federated.faults.dropout_probability"


def rounds(
    setting, seed, drift, behind=0, model="jepa", stages=(("encoder", 20), ("predictor", 10)), slope=0
):
    told = {"model": model, "seed": seed, "key": f"{model} {setting} {seed}", "mode": "federated"}
    return [
        {**told, "setting": setting, "stage": stage, "step": step, "behind": behind}
        | {"drift_weights": drift + slope * step}
        | ({"drift_latents": 2 * drift} if stage == "encoder" else {})
        for stage, num_steps in stages
        for step in range(1, num_steps, 2)
    ]


def lines(axes):
    return {
        line.get_label(): line.get_xydata() for line in axes.lines if not line.get_label().startswith("_")
    }


def test_stages_follow_each_other_and_seeds_are_averaged():
    figure = drift_figure(pd.DataFrame([*rounds("", 0, 0.1), *rounds("", 1, 0.3)]))
    weights, latents = figure.axes
    assert weights.get_yscale() == latents.get_yscale() == "log"
    drawn = lines(weights)["federated"]
    # A step is drawn at its middle.
    assert drawn[:, 0].tolist() == [step + 0.5 for step in range(1, 30, 2)]
    np.testing.assert_allclose(drawn[:, 1], 0.2)
    drawn = lines(latents)["federated"]
    assert drawn[:, 0].tolist() == [step + 0.5 for step in range(1, 20, 2)]
    np.testing.assert_allclose(drawn[:, 1], 0.4)
    ends = [line.get_xdata()[0] for line in weights.lines if line.get_label().startswith("_")]
    assert ends == [20]


def test_many_rounds_are_windows_of_a_stage():
    """Five of 20 steps and five of 10, however many rounds a seed has: rounds end at steps 1, 3, 5..."""
    all_rounds = rounds("", 1, 1.0, slope=0.1)
    few = [row for row in all_rounds if row["stage"] == "predictor" or row["step"] % 4 == 3]
    figure = drift_figure(pd.DataFrame([*rounds("", 0, 1.0, slope=0.1), *few]), num_points=5)
    drawn = lines(figure.axes[0])["federated"]
    assert drawn[:, 0].tolist() == [2, 6, 10, 14, 18, 21, 23, 25, 27, 29]
    # Of the first window seed 0 has steps 1 and 3, seed 1 has step 3 alone.
    np.testing.assert_allclose(drawn[:5, 1], [1.25, 1.65, 2.05, 2.45, 2.85])
    np.testing.assert_allclose(drawn[5:, 1], [1.1, 1.3, 1.5, 1.7, 1.9])


def test_settings_and_models_are_lines_of_their_own():
    rows = [*rounds(f"{DROPOUT}=0.0", 0, 0.1), *rounds(f"{DROPOUT}=0.5", 0, 0.3, behind=2)]
    figure = drift_figure(pd.DataFrame(rows))
    behind, weights, _ = figure.axes
    assert behind.get_yscale() == "linear"
    assert lines(behind)["dropout probability 0.5"][:, 1].tolist() == [2] * 15
    assert {*lines(weights)} == {"dropout probability 0.0", "dropout probability 0.5"}
    figure = drift_figure(pd.DataFrame([*rounds("", 0, 0.1), *rounds("", 0, 0.2, model="siamese")]))
    assert {*lines(figure.axes[0])} == {"jepa", "siamese"}


def test_series_are_told_apart_by_their_whole_settings():
    rows = [*rounds("a.kind=x", 0, 0.1), *rounds("b.kind=x", 0, 0.3, stages=(("encoder", 8),))]
    axes = drift_figure(pd.DataFrame(rows)).axes[0]
    drawn = [line.get_ydata()[0] for line in axes.lines]
    # Their stages end at different steps: no line says where.
    np.testing.assert_allclose(drawn, [0.1, 0.3])


def test_there_is_none_without_rounds():
    assert drift_figure(pd.DataFrame()) is None
    central = pd.DataFrame(rounds("", 0, 0.1)).drop(columns=["behind", "drift_weights", "drift_latents"])
    assert drift_figure(central) is None
    alone = pd.DataFrame(rounds("", 0, 0.1)).assign(behind=None, drift_weights=np.nan, drift_latents=np.nan)
    assert drift_figure(alone) is None
