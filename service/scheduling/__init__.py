"""Who computes when: a bounded queue in front of one thread that owns the device. Knows no event loop and no web."""

from service.scheduling.engine import Engine
from service.scheduling.job import Answer, Job, Mode, Options
from service.scheduling.keeper import Keeper, Keeping
from service.scheduling.keeper_thread import KeeperThread
from service.scheduling.limits import Limits
from service.scheduling.shadow import Shadowing

__all__ = ["Answer", "Engine", "Job", "Keeper", "KeeperThread", "Keeping", "Limits", "Mode", "Options", "Shadowing"]
