import json
from pathlib import Path

from stages import train


def test_history_of_a_status_file(tmp_path: Path) -> None:
    """TAO repeats the last figures in other events; a row is made for an epoch only once."""
    events = [
        {"message": "Starting Mask2Former train."},
        {"message": "Train metrics generated.", "kpi": {"train_loss": 3.0}},
        {"message": "Training loop in progress", "kpi": {"train_loss": 3.0}},
        {"message": "Eval metrics generated.", "kpi": {"mIoU": 0.5, "mean_accuracy": 0.6, "val_loss": 4.0}},
        {"message": "Training loop in progress", "kpi": {"mIoU": 0.5, "val_loss": 4.0}},
        {"message": "Train metrics generated.", "kpi": {"train_loss": 2.0}},
        {"message": "Train finished successfully."},
    ]
    status = tmp_path / "status.json"
    status.write_text("\n".join(json.dumps(e) for e in events))
    assert train.history(status) == [
        {"epoch": 1, "train_loss": 3.0},
        {"epoch": 2, "train_loss": 2.0, "val_loss": 4.0, "val_miou": 0.5},
    ]
