"""What one slide of the deck is, whoever writes it to a file."""

from dataclasses import dataclass, field

KINDS = ("cover", "guess", "live", "vote", "figure", "points")


@dataclass
class Slide:
    """What one slide shows and says, with all numbers in place.

    title: "" where the figure's own message becomes the title.

    kind: one of KINDS. kicker: the small line above the title. lead: the question of a guess. body:
    lines of text. tall: the figure needs 16:9. picture: the PNG's bytes. missing: why a figure
    could not be drawn, and how to make its record.
    """

    kind: str
    title: str
    kicker: str
    part: str
    starts: float
    minutes: float
    lead: str = ""
    body: list[str] = field(default_factory=list)
    figure: str = ""
    tall: bool = False
    alt: str = ""
    source: str = ""
    notes: list[tuple[str, str]] = field(default_factory=list)
    missing: str = ""
    picture: bytes = b""

    @property
    def notes_text(self) -> str:
        """The notes as plain text, a paragraph a head."""
        return "\n\n".join(f"{head}: {text}" for head, text in self.notes)
