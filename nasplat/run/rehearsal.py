"""A rehearsal of what resuming does first: whether it would refuse the snapshot of a log."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from nasplat.config import SearchConfig
from nasplat.driver.accounts import Accounts
from nasplat.driver.assembly import Assembly
from nasplat.driver.replay import replay
from nasplat.errors import DamageError, NasplatError, StrategyError
from nasplat.storage.event_log import EventLog


def snapshot_damage(path: Path, config: SearchConfig, recorded: Mapping[str, Any] | None) -> str:
    """Why resuming would refuse the snapshot in a log that is whole otherwise; empty if it would not."""
    code_metrics = frozenset((recorded or {}).get("code_metrics", ()))
    with closing(EventLog.open(path)) as log:
        if log.snapshot() is None:
            return ""
        try:
            assembly = Assembly.of(config, code_metrics=code_metrics, offline=True)
            stopping, accounts = assembly.stopping, Accounts(config.goal)
            if stopping is None:
                replay(log, assembly.strategy, assembly.problem, accounts, lambda outcome: None)
            else:
                replay(log, assembly.strategy, assembly.problem, accounts, stopping.enter, stopping.ruled)
        except DamageError as error:
            return str(error).partition(";")[0]
        except StrategyError:
            return "after its snapshot the strategy asks for other tasks than the log has"
        except NasplatError:  # nothing about the snapshot: the benchmark or its costs have changed
            return ""
        except Exception as error:  # noqa: BLE001  a strategy is foreign code, and its state may be damaged
            return f"with its snapshot the strategy raised {type(error).__name__}: {error}"
    return ""
