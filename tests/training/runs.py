"""The settings of a short run, the same in one process and in two."""

TRAINING = {
    "batch_size": 4,
    "tokens_per_microbatch": 60,
    "learning_rate": 1e-3,
    "optimizer": "sgd",
    "max_steps": 4,
    "scheduler": "linear",
    "warmup_steps": 1,
}
