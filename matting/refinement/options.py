"""How a matte is refined. Widths are in pixels of the mask that a stage starts from, unless they say otherwise."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BandOptions:
    """Where a stage looks for the boundary (`reference/refinement.md` C.6).

    Attributes:
        uncertain: Alpha between this and one minus this is undecided.
        contour: Half the width of the line along the 0.5 contour.
        dilate: Both together are widened by so much, or by as much less as keeps within `max_share`.
        feather: Outer part of that width, at least, over which the finer answer fades out: a hard step would show.
        max_share: A band of more than this share of the pixels is no boundary, and is not refined.
        soft: Where a mask's change within two pixels is this share of its change within six, or less, it has resolved
            what is there, and nothing is refined.
        sharp: From this share on all of a change counts. An edge of area means has 1, one over three pixels 2/3. 0
            refines everything.
        everywhere: Refine every pixel instead, as CRM does.
    """

    uncertain: float = 4.0 / 255.0
    contour: int = 2
    dilate: int = 6
    feather: int = 2
    max_share: float = 0.35
    soft: float = 0.9
    sharp: float = 0.92
    everywhere: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.uncertain < 0.5 or not 0 < self.max_share <= 1:
            raise ValueError(f"band: expected 0 < uncertain < 0.5 and 0 < max_share <= 1, found {self}")
        if self.contour < 1 or not 0 <= self.feather <= self.dilate:
            raise ValueError(f"band: expected contour >= 1 and 0 <= feather <= dilate, found {self}")


@dataclass(frozen=True, slots=True)
class FusionOptions:
    """How much of a finer answer is believed (`reference/refinement.md` B.3).

    Attributes:
        sigma: Deviation of the Gaussian that says what is around a pixel.
        agreement: Where the finer answer and the mask differ by so much at the rim of the band, 1/e of it is left.
        max_area_change: A stage that changes the matte's area by more than this share of it is dropped.
        rounds: How often the refined matte's means over the pixels of the coarse mask are brought nearer to what was
            measured there; 0 takes them as they are.
    """

    sigma: float = 6.0
    agreement: float = 0.4
    max_area_change: float = 0.25
    rounds: int = 4

    def __post_init__(self) -> None:
        if min(self.sigma, self.agreement, self.max_area_change) <= 0:
            raise ValueError(f"fusion: expected positive numbers, found {self}")


@dataclass(frozen=True, slots=True)
class CropOptions:
    """When the network sees a small subject again, larger.

    Attributes:
        threshold: Alpha above which a pixel belongs to the subject.
        margin: Of the subject's box, on every side, as a share of its sides.
        min_gain: The crop must show the subject so many times larger.
        min_agreement: Intersection over union that both mattes must have within the crop, or the second is not used:
            a network that sees no surroundings may lose its way.
    """

    threshold: float = 0.1
    margin: float = 0.15
    min_gain: float = 1.5
    min_agreement: float = 0.7


@dataclass(frozen=True, slots=True)
class RefineOptions:
    """All of it.

    Attributes:
        band: Where.
        fusion: How much; None takes the finer answer as it is, as RefineMask does.
        crop: When the network sees a small subject again; None is never.
        batch: Most questions asked at once, which bounds the memory that they take.
        scales: Sizes of the stages as shares of the image's sides, ascending, the last 1; None climbs by two.
        stages: False leaves them all out: then only a crop is asked for.
    """

    band: BandOptions = field(default_factory=BandOptions)
    fusion: FusionOptions | None = field(default_factory=FusionOptions)
    crop: CropOptions | None = None
    batch: int = 4
    scales: tuple[float, ...] | None = None
    stages: bool = True

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch: expected 1 or more, found {self.batch}")
        if self.scales is not None and (self.scales[-1:] != (1.0,) or sorted(set(self.scales)) != list(self.scales)):
            raise ValueError(f"scales: expected ascending shares of which the last is 1, found {self.scales}")


EAGER = RefineOptions(band=BandOptions(soft=0.0, sharp=0.0), fusion=FusionOptions(rounds=0))
"""Takes the refiner's word also where the coarse mask was soft or says something else, as a network's may be wrong."""

GUIDED = RefineOptions(band=EAGER.band, fusion=EAGER.fusion, scales=(1.0,))
"""For the guided filter, which looks at the mask's own resolution and at the image's, and gains nothing between."""

CRM_SCHEDULE = RefineOptions(
    band=BandOptions(everywhere=True, max_share=1.0), fusion=None, scales=(0.125, 0.25, 0.5, 1.0)
)
"""CRM as published: four stages, every pixel of each, the finer answer as it is (`reference/refinement.md` A.5)."""

SINGLE_PASS = RefineOptions(band=BandOptions(everywhere=True, max_share=1.0), fusion=None, scales=(1.0,))
"""One pass at full size: what the schedule is measured against."""
