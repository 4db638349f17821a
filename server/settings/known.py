"""Everything an operator can set, checked.

Each description says what the setting does to a running server; flags, help texts and `docs/settings.md` are generated
from it.
"""

import sys
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from server.host import HostLimits

_MIB = 1 << 20

# Settings that only some backends know what to do with.
_ONLY_WITH = {
    "allow_cpu": ("ort", "torch"),
    "fake_latency_s": ("fake",),
    "gpu_memory_mib": ("ort",),
    "gpu_streams": ("torch", "trt"),
    "tune_kernels": ("torch",),
    "build_plans": ("trt",),
    "finish": ("torch", "fake"),
}

Origin = Annotated[
    str, Field(pattern=r"^(\*|https?://[A-Za-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-fA-F:]+\](:\d{1,5})?)$")
]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
GpuIndex = Annotated[int, Field(ge=0, le=63)]
Niceness = Annotated[int, Field(ge=0, le=19)]
Network = IPv4Network | IPv6Network
ModelLimits = Annotated[str, Field(pattern=r"^\s*\S+(\s+[a-z_]+=[0-9.]+)+\s*$")]


class Settings(BaseModel):
    """All settings of one process, checked. `load_settings` makes one from flags, environment and file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Where it listens
    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address that both ports listen on. The default is reachable from this machine only; 0.0.0.0 lets "
        "everyone in who reaches it, which is what a container needs.",
    )
    port: Port = Field(
        8000, description="Port of the REST interface, probes and metrics. 0 takes a free one and logs it."
    )
    grpc_port: Port = Field(8001, description="Port of the gRPC interface. 0 takes a free one and logs it.")

    frontends: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="Processes that share both ports, and receive, decode, resize and encode, in front of the one that "
        "owns devices, queue and limits (Linux). 1 is that one alone. More are for servers that are sent more than one "
        "Python interpreter can take (docs/performance.md); cpu_workers are those of all together. Without allow_urls, "
        "shadow_model, traces and finish=device.",
    )

    # What it serves
    model: tuple[str, ...] = Field(
        (),
        description="Artifact directories to serve, each as DIR or NAME=DIR; the first is the default of requests "
        "that name none. Without any, the model in the package is served. Every one costs memory and time until "
        "ready. In the environment, separate several with commas.",
    )
    models_dir: Path | None = Field(
        None,
        description="Every artifact directory in this folder is served, under its folder's name. A damaged one stops "
        "the start: a server that silently lacks a model is worse than one that does not come up. With "
        "admin_keys_file it is also the folder that models are added from.",
    )

    model_limits: tuple[ModelLimits, ...] = Field(
        (),
        description="Limits of single models, each as 'NAME limit=NUMBER ...', with one or more of max_requests (inside"
        " at once), max_megapixels (of their images), share (0 to 1, of the server's own limits on requests, "
        "megapixels and memory), max_batch, and timeout_s. More than a model may have inside are refused with 429 and "
        "Retry-After, while other models go on. In the environment, separate several with commas.",
    )
    shadow_model: str | None = Field(
        None,
        description="Name of a served model that answers a share of the requests for the default one a second time, "
        "when the device has nothing else to do; clients never wait for it. GET /admin/shadow and /metrics say how far "
        "the two are apart.",
    )
    shadow_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01, description="With shadow_model: share of the requests that are answered again, 0 to 1."
    )

    refiner: str = Field(
        "embedded",
        min_length=1,
        description="What makes mattes sharp at the image's own resolution, for all models: embedded is the refiner in "
        "the package, a path is an artifact directory of kind refine, and none leaves it to the guided filter, for "
        "requests that ask for it. It costs memory and time until ready.",
    )

    # What it runs on
    backend: Literal["ort", "trt", "torch", "fake"] = Field(
        "ort",
        description="What runs the network: ort is ONNX Runtime; trt is TensorRT, with plans that were built for this "
        "GPU (docs/gpu.md); torch is fused kernels and CUDA graphs on a GPU, and needs the extra `torch` and artifacts "
        "that were exported --with-weights; fake answers at once without a network, to measure everything around it, "
        "and must not serve users.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="Device of the network. auto takes CUDA where the installed ONNX Runtime or torch has it, else the "
        "CPU; cuda fails at the start if the GPU cannot be used, so that nobody pays for an idle one.",
    )
    allow_cpu: bool = Field(
        False,
        description="With device=cuda: go on with the CPU when the GPU cannot be used, some fifty times as slow. The "
        "log warns.",
    )
    gpus: tuple[GpuIndex, ...] = Field(
        (),
        description="Indices of the GPUs to use, as CUDA counts those that the process sees. One queue feeds them all; "
        "one that fails for good is taken out, and the others go on. By default the first. With backend=fake, so many "
        "imitations. Several may be separated by commas.",
    )
    gpu_memory_mib: Count | None = Field(
        None,
        description="With backend=ort on a GPU: most memory that its arena may take there, for a card that others use "
        "too. By default all there is.",
    )
    gpu_streams: Annotated[int, Field(ge=1, le=4)] = Field(
        1,
        description="With backend=torch or trt on a GPU: device threads that share it, each with a stream of its own, "
        "so that the copies of one batch overlap with the work of another. Each holds the weights, and memory for a "
        "batch.",
    )
    tune_kernels: bool = Field(
        False,
        description="With backend=torch on a GPU: try which launches of our kernels are the fastest before serving, "
        "some minutes at the first start. Otherwise those that are shipped are taken.",
    )
    build_plans: bool = Field(
        False,
        description="With backend=trt: build a plan that is missing, or was made for another GPU, TensorRT or graph, "
        "when its model is loaded, instead of failing. That takes minutes, and the artifact directory must be "
        "writable.",
    )
    finish: Literal["host", "device"] = Field(
        "host",
        description="Where mattes become as large as their images, and the foreground's colours are estimated. On the "
        "host that takes a core up to two seconds for a large cutout; device has backend=torch do it on the GPU "
        "between two batches, for which the image crosses PCIe. What fails there is done on the host.",
    )
    threads: Count | None = Field(
        None,
        description="Threads that the network may use on the CPU. By default as many as the container's CPU limit and "
        "affinity allow; more than that makes every request slower.",
    )
    max_batch: Count | None = Field(
        None,
        description="Most images that share one run of the network. By default what pays on the device: 2 on a CPU. "
        "More brings throughput on a GPU, and costs memory and latency. Of these, those sizes are served that fit into "
        "the memory that the device has free at the start.",
    )
    batch_latency_ms: Amount | None = Field(
        None,
        description="Longest that one run of a network may take on the device. Every batch size up to max_batch is "
        "timed when a model is warmed up, and the largest that keeps within this is its limit on that device; single "
        "images always run. By default nothing is timed, and max_batch and memory decide alone.",
    )
    cpu_workers: Count | None = Field(
        None,
        description="Threads that decode, resize and encode. By default as many as the container's CPU limit allows. "
        "Each may hold 11 to 49 bytes per pixel of the image it works on, by formats.",
    )
    compute_niceness: Niceness = Field(
        5,
        description="Niceness, 0 to 19, of the threads that decode, encode and run networks on the CPU (Linux): the "
        "event loop, which answers probes and refusals, goes before them. So do other programs on the same CPUs, a "
        "little; much higher values starve them there, and the loop with them, which shares the interpreter's lock.",
    )

    # What it lets in
    max_requests: Count = Field(
        64,
        description="Requests inside at once, from the door to the answer. More are refused with 429 and Retry-After. "
        "Higher values mean longer waits under load, not more throughput.",
    )
    max_wait_s: Amount | None = Field(
        None,
        description="Seconds that a request may be expected to wait for its turn, by what is ahead of it and what that "
        "was measured to take; more are refused with 429 and Retry-After. This bounds the latency of what is taken: "
        "twice the time of a batch keeps a device busy. By default max_requests alone decides.",
    )
    max_memory_inside_mib: Amount | None = Field(
        None,
        description="Mebibytes that all requests inside may take at once, each counted with what its formats were "
        "measured to take at their peak: more are refused with 429 and Retry-After, and a request that takes more "
        "alone with 413. By default half of the container's memory limit.",
    )
    max_megapixels_inside: Amount | None = Field(
        None,
        description="Megapixels of all images inside at once; more are refused with 429 and Retry-After. By default "
        "memory alone decides.",
    )
    max_megapixels: Amount = Field(
        50.0,
        description="Megapixels of one image, checked in its header before a pixel is decoded; larger ones are "
        "refused with 413. Answering it takes 11 to 49 bytes per pixel at the peak, by formats.",
    )
    max_side: Count = Field(
        65_535, description="Pixels of one image in width and in height, checked in its header; 413 above it."
    )
    max_upload_mib: float = Field(
        64.0,
        gt=0,
        le=2047,
        description="Mebibytes of one upload, and of one gRPC message; larger ones are refused with 413 as soon as "
        "that is known.",
    )
    max_metadata_mib: Amount = Field(
        16.0,
        description="Mebibytes that one file may hold beside its pixels: colour profile, Exif, text, layers; 413 above "
        "it. Decoders copy them.",
    )
    max_uploads: Count = Field(
        256,
        description="Requests whose body is still on its way, over both transports. More are refused before their body "
        "is read, with 429 and Retry-After.",
    )
    max_uploads_mib: Amount | None = Field(
        None,
        description="Mebibytes of all HTTP bodies on their way, as announced or, without Content-Length, as arrived. "
        "More are refused with 429 and Retry-After. Single gRPC calls, whose length is not known before, wait until "
        "there is room for the largest message, in half of this; it does not bound streams. By default a quarter of "
        "the container's memory limit.",
    )
    timeout_s: PositiveSeconds = Field(
        300.0,
        description="Seconds a request may take if it does not say itself. After that it is dropped and answered with "
        "504, even if it is still waiting.",
    )
    max_timeout_s: PositiveSeconds = Field(
        600.0,
        description="Longest time that a request may ask for with timeout_ms; a longer gRPC deadline is cut to it.",
    )

    # Whom it lets in
    tls_certificate: Path | None = Field(
        None,
        description="PEM file with the certificate of this server and its intermediate ones; with tls_key it turns TLS "
        "on, 1.2 or newer, on both ports. Read again every second, so that a renewed one holds for new connections "
        "without a restart; a broken one changes nothing.",
    )
    tls_key: Path | None = Field(
        None, description="PEM file with the private key of tls_certificate, without password."
    )
    tls_client_ca: Path | None = Field(
        None,
        description="PEM file with the authorities that sign certificates of clients; turns mutual TLS on, on both "
        "ports. Only /livez and /readyz are then answered without one, because orchestrators have none.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="File with the hashes of the API keys that are let in, one line each, as `birefnet-server key` "
        "prints them. Without it nobody is asked for a key. Read again every second: a change holds at once, and one "
        "that cannot be read changes nothing.",
    )
    admin_keys_file: Path | None = Field(
        None,
        description="File with the hashes of the keys that open /admin, in the form of api_keys_file and read again as "
        "that is. Whoever has such a key may add, replace and remove models while the server runs, from models_dir "
        "alone. Without it there is no /admin.",
    )
    rate_limit_megapixels: NotNegative = Field(
        0.0,
        description="Megapixels of images per minute that the account of each API key may send to this process, unless "
        "its line in the file says otherwise; more are refused with 429 and the exact Retry-After. 0 is no limit.",
    )
    open_without_key: tuple[Literal["docs", "metrics", "models", "reflection"], ...] = Field(
        ("docs",),
        description="What is answered without a key where keys are asked for, beside probes and gRPC health, which "
        "always are. docs is the page at /, /docs and /openapi.json; metrics is /metrics; models is /models, "
        "/version and /v2; reflection is gRPC's. In the environment, separate several with commas.",
    )

    cors_origin: tuple[Origin, ...] = Field(
        (),
        description="Origins of web pages that may call the REST interface from a browser, such as "
        "https://shop.example; * is every page. Cookies are never allowed, and a key is still needed where keys are "
        "asked for. Without any, browsers let only pages of this server itself call it. In the environment, separate "
        "several with commas.",
    )

    # What it fetches
    allow_urls: bool = Field(
        False,
        description="Fetch images that requests name by image_url, and so open connections to hosts that clients "
        "choose. Off, such requests are refused with 422. Read docs/urls.md first.",
    )
    url_timeout_s: PositiveSeconds = Field(
        20.0,
        description="Seconds for one image by its URL, from the lookup of the name to the last byte, waiting and "
        "redirects included; then 504. The request's own time limit holds as well.",
    )
    url_fetches: Count = Field(
        16,
        description="Images fetched at once, at most half of them towards one host, or for one API key. They count as "
        "uploads on their way, too. As many as max_requests more wait, the rest is refused with 429 and Retry-After.",
    )
    url_ports: tuple[Port, ...] = Field(
        (80, 443),
        description="Ports that a URL may name. 0 stands for every port, which lets clients knock at all of them.",
    )
    url_allow: tuple[Network, ...] = Field(
        (),
        description="Networks that may be fetched from although their addresses are not public, such as 10.1.2.0/24: "
        "the image store of a private deployment. Every host in them can be reached by every client.",
    )
    url_deny: tuple[Network, ...] = Field(
        (),
        description="Networks that are never fetched from, even if their addresses are public or allowed: services of "
        "your own that have public addresses.",
    )
    url_ca_file: Path | None = Field(
        None,
        description="Certificates of authorities, in PEM, that are trusted for https URLs beside the public ones.",
    )

    # How it answers
    png_level: int = Field(
        1,
        ge=0,
        le=9,
        description="Compression of PNG answers. 1 encodes a 12-megapixel cutout in about half a second of one core; "
        "6 takes several times as long and is smaller on drawings, not on photographs; 0 stores.",
    )
    jpeg_quality: int = Field(92, ge=1, le=95, description="Quality of JPEG answers; higher means more bytes.")
    webp_quality: int = Field(
        90,
        ge=1,
        le=100,
        description="Quality of the colours in WebP answers; higher means more bytes. Mattes and the alpha of cutouts "
        "are lossless.",
    )
    scaled_decode: bool = Field(
        False,
        description="For mattes of large JPEGs that are not refined, decode at a half, a quarter or an eighth of the "
        "size while that is at least twice the network's own: two to three times as fast, in a third of the memory. "
        "What the network sees then differs from the published preprocessing by less than one level in 255, and by a "
        "dozen at most.",
    )

    # How long connections last
    keep_alive_s: Count = Field(
        75,
        description="Seconds until an idle HTTP connection is closed. Keep it above the idle timeout of the proxy in "
        "front, often 60: if the server closes first, a request that is on its way at that moment is lost.",
    )
    write_timeout_s: PositiveSeconds = Field(
        30.0,
        description="Seconds after which an HTTP connection is cut whose client takes nothing of its answer. Until it "
        "is read, an answer counts in max_memory_inside_mib.",
    )
    grpc_max_connection_age_s: Seconds = Field(
        0.0,
        description="Seconds after which a gRPC client is asked to connect anew, ±10 % at random; calls that have "
        "begun go on. Clients behind a headless Service then find new replicas: 300 suits Kubernetes. 0 is never.",
    )
    grpc_connection_grace_s: PositiveSeconds = Field(
        600.0,
        description="With grpc_max_connection_age_s: seconds that calls on an aged connection have to end, before they "
        "are cancelled. Keep it above max_timeout_s, and above the length of streams.",
    )
    grpc_stream_window: Count = Field(
        16,
        description="Images of one gRPC stream that are worked on at once; the next is read when one is answered. "
        "Higher values fill large batches from a single stream, and keep more uploads in memory.",
    )
    grpc_max_streams: Count = Field(
        64,
        description="gRPC streams that are open at once, over all connections; more are refused with "
        "RESOURCE_EXHAUSTED and retry-after. Each may hold one message on its way, beside those of its window.",
    )
    grpc_stream_idle_s: PositiveSeconds = Field(
        300.0,
        description="Seconds after which a gRPC stream ends with DEADLINE_EXCEEDED when nothing of it is worked on and "
        "no further message has come whole: it takes one of grpc_max_streams.",
    )

    # How it stops
    drain_delay_s: Seconds = Field(
        0.0,
        description="Seconds to go on accepting requests after SIGTERM, not ready any more, so that load balancers "
        "notice first. 0 suits a terminal; 10 is right on Kubernetes.",
    )
    drain_timeout_s: Seconds = Field(
        60.0,
        description="Seconds after the drain delay in which requests inside may finish; what is left is then dropped. "
        "Keep drain_delay_s plus this below the orchestrator's grace period.",
    )

    # What it says
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        description="Least severe messages that are logged, on standard error. debug is too much for production.",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Log lines for people (text) or for machines (json, one object per line)."
    )

    traces: bool = Field(
        False,
        description="Trace every request by OpenTelemetry, which the extra [otel] installs: spans of fetch, decode, "
        "queue, batch, refine and encode below one of the request, which continues a caller's trace (traceparent). "
        "Where they go and how many are kept is set by its own variables: OTEL_EXPORTER_OTLP_ENDPOINT, "
        "OTEL_TRACES_SAMPLER and so on.",
    )

    # The fake backend
    fake_latency_s: Seconds = Field(
        0.0, description="With backend=fake: seconds that every batch takes, to imitate a device."
    )

    @property
    def max_upload_bytes(self) -> int:
        return round(self.max_upload_mib * _MIB)

    @property
    def max_metadata_bytes(self) -> int:
        return round(self.max_metadata_mib * _MIB)

    @property
    def max_pixels(self) -> int:
        return round(self.max_megapixels * 1e6)

    @field_validator(
        "model", "model_limits", "open_without_key", "cors_origin", "url_ports", "url_allow", "url_deny", mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("gpus", mode="before")
    @classmethod
    def _split_each(cls, value: object) -> object:
        parts = (value,) if isinstance(value, str | int) else value
        if not isinstance(parts, list | tuple):
            return value
        return tuple(piece.strip() for part in parts for piece in str(part).split(",") if piece.strip())

    @field_validator("log_level", "log_format", "backend", "device", "finish", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        problems = []
        if self.timeout_s > self.max_timeout_s:
            problems.append(f"expected timeout_s ≤ max_timeout_s, found {self.timeout_s:g} > {self.max_timeout_s:g}")
        if (inside := self.max_megapixels_inside) is not None and self.max_megapixels > inside:
            problems.append(
                f"expected max_megapixels ≤ max_megapixels_inside, found {self.max_megapixels:g} > {inside:g}"
            )
        alone = [name for name in ("allow_urls", "shadow_model", "traces") if getattr(self, name)]
        alone += ["finish=device"] if self.finish == "device" else []
        if self.frontends > 1 and alone:
            problems.append(f"expected frontends=1 with {' and '.join(alone)}, found frontends={self.frontends}")
        if self.frontends > 1 and sys.platform != "linux":
            problems.append(f"expected frontends=1 on any system but Linux, found frontends={self.frontends}")
        if self.port == self.grpc_port != 0:
            problems.append(f"expected two different ports, found port = grpc_port = {self.port}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def _check_device(self) -> Self:
        problems = []
        if self.allow_cpu and self.device != "cuda":
            problems.append(f"expected allow_cpu only with device=cuda, found device={self.device}")
        if self.backend == "fake" and self.device == "cuda":
            problems.append("expected device=cuda only with backend=ort, trt or torch, found backend=fake")
        if self.backend == "trt" and self.device == "cpu":
            problems.append("expected backend=trt without device=cpu: TensorRT runs on GPUs alone")
        if self.gpus and self.device == "cpu":
            problems.append("expected gpus without device=cpu: they are what the network runs on")
        if len(set(self.gpus)) < len(self.gpus):
            problems.append(f"expected every GPU once in gpus, found {','.join(map(str, self.gpus))}")
        if self.allow_cpu and len(self.gpus) > 1:
            problems.append("expected allow_cpu with one GPU: several cannot be replaced by one CPU")
        for name, backends in _ONLY_WITH.items():
            if getattr(self, name) != type(self).model_fields[name].default and self.backend not in backends:
                expected = " or ".join(backends)
                problems.append(f"expected {name} only with backend={expected}, found backend={self.backend}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def _check_access(self) -> Self:
        problems = []
        if (self.tls_certificate is None) != (self.tls_key is None):
            problems.append("expected tls_certificate and tls_key together, found one of them alone")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            problems.append("expected tls_client_ca only with tls_certificate, found it without")
        if self.rate_limit_megapixels and self.api_keys_file is None:
            problems.append("expected rate_limit_megapixels only with api_keys_file, found it without")
        if self.admin_keys_file is not None and self.admin_keys_file == self.api_keys_file:
            problems.append(
                "expected two files, found admin_keys_file = api_keys_file: every client would be in charge"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def for_host(self, host: HostLimits) -> Self:
        """The same settings with everything that was left to the machine decided."""
        memory_mib = host.memory_bytes / _MIB
        return self.model_copy(
            update={
                "threads": self.threads or host.threads,
                "cpu_workers": self.cpu_workers or host.threads,
                "max_memory_inside_mib": self.max_memory_inside_mib or memory_mib / 2,
                "max_uploads_mib": self.max_uploads_mib or memory_mib / 4,
            }
        )
