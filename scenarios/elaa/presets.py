"""The ELAA scenario's presets beside the default one: a test's, and one for a machine with more time."""

from __future__ import annotations

from channels.near_field import NearFieldConfig
from nodes.training.collaboration import CollaborationConfig
from scenarios.elaa.bottleneck import BottleneckConfig
from scenarios.elaa.config import ElaaConfig, EvaluationConfig
from scenarios.elaa.data import DataConfig
from scenarios.elaa.examples import ExampleConfig
from scenarios.elaa.models import ModelConfig
from scenarios.elaa.task import TrainingConfig
from scenarios.elaa.vocabulary import BAND, FEEDBACKS, FORECASTERS, FRONTHAUL

TINY = ElaaConfig(
    collaboration=CollaborationConfig(num_clients=4),
    array=NearFieldConfig(num_elements=64),
    training_shares=(1.0, 0.5),
    subarray_size=16,
    data=DataConfig(num_training=256, num_validation=16, num_test=8),
    model=ModelConfig(
        patch_size=16, dim=16, depth=1, num_heads=2, predictor_dim=16, predictor_depth=1, combiner_dim=16
    ),
    examples=ExampleConfig(num_examples=128, num_path_examples=64),
    training=TrainingConfig(
        num_steps_pretraining=10, num_steps_decoder=10, num_steps_tuning=10, num_steps_combiner=10,
        batch_size=16, combiner_batch_size=16,
    ),
    bottleneck=BottleneckConfig(
        num_steps_pretraining=10, num_steps=10, num_steps_density=10, depth=1
    ),
    evaluation=EvaluationConfig(
        shares=(1.0, 0.5), snrs_db=(10.0,), array_sizes=(32, 64),
        size_methods=("ls", "nomp-shrink", "supervised"),
        look_aheads=(0, 1), ahead_shares=(0.5,), forecasters=tuple(FORECASTERS),
        feedback_shares=(1.0, 0.5), feedback_bits=(64,), feedbacks=tuple(FEEDBACKS),
        num_subcarriers=2, band_methods=tuple(BAND), band_shares=(1.0, 0.5),
        unknown_methods=("ls", "nomp-shrink", "hybrid"),
        unknown_shares=(0.5,), air_methods=tuple(FRONTHAUL), air_codecs=("uniform-4",), erasures=(0.3,),
    ),
)  # fmt: skip
PAPER = ElaaConfig(
    data=DataConfig(num_training=20_000, num_validation=2_000, num_test=2_000, num_test_others=2_000),
    model=ModelConfig(
        patch_size=16, dim=128, depth=4, num_heads=4, predictor_dim=96, predictor_depth=4, decoder_depth=2,
        combiner_dim=128, combiner_depth=4,
    ),
    examples=ExampleConfig(num_examples=200_000, num_path_examples=100_000),
    training=TrainingConfig(
        num_steps_pretraining=10_000, num_steps_decoder=5_000, num_steps_tuning=20_000,
        num_steps_combiner=20_000, combiner_learning_rate=2e-3,
    ),
)  # fmt: skip
