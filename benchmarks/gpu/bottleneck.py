"""What a loaded server waits for: the share of its capacity that each part used, and the part that had none left.

Rules of this module: pure; the numbers are arguments.
"""

from collections.abc import Mapping
from dataclasses import dataclass

_SATURATED = 0.85

PARTS = {
    "client": "the program that sends the requests: what it shares with the server is more than the server",
    "device": "the device",
    "host": "the threads that decode and encode",
    "interpreter": "what is left of the server's process: the event loop, transports, copies",
}


@dataclass(frozen=True, slots=True)
class Usage:
    """What one load used, in seconds of work.

    Attributes:
        took_s: Wall time.
        client_s: Processor time of the program that sends the requests, which is one interpreter.
        process_s: Processor time of the server.
        device_s: Work of the device threads.
        devices: How many there are.
        host_s: Work of the pool.
        host_workers: How many there are.
        on_host: Whether the device is the processor, so that its work is the process's.
        stages_s: Of requests, by stage.
    """

    took_s: float
    client_s: float
    process_s: float
    device_s: float
    devices: float
    host_s: float
    host_workers: float
    on_host: bool
    stages_s: Mapping[str, float]

    @property
    def shares(self) -> dict[str, float]:
        """Of each part's capacity, 0 to 1 and a little."""
        # What is neither the pool's nor, on a processor, the device's is of threads that share one interpreter's lock.
        elsewhere_s = max(0.0, self.process_s - self.host_s - (self.device_s if self.on_host else 0.0))
        return {
            "client": self.client_s / self.took_s,
            "device": self.device_s / (self.took_s * self.devices),
            "host": self.host_s / (self.took_s * self.host_workers),
            "interpreter": elsewhere_s / self.took_s,
        }

    def bottleneck(self) -> str:
        """The part that is used most, if that is close to all of it, else `none`; the host's with its longest stage."""
        shares = self.shares
        part = max(shares, key=lambda name: shares[name])
        if shares[part] < _SATURATED:
            return "none"
        host = {stage: seconds for stage, seconds in self.stages_s.items() if stage in ("decode", "encode", "refine")}
        return f"host, {max(host, key=lambda stage: host[stage])}" if part == "host" and host else part
