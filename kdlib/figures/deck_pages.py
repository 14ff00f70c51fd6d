"""The deck's HTML pages from their templates: the slides, the handout, the quiz.

Each page is one file without anything from elsewhere: it opens from a USB stick.
"""

import base64

from jinja2 import Environment, PackageLoader, StrictUndefined


def page(name: str, **values) -> str:
    """A page from `templates/NAME.j2`; every value is escaped."""
    environment = Environment(
        loader=PackageLoader("kdlib.figures"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["data_uri"] = data_uri
    return environment.get_template(f"{name}.j2").render(**values)


def data_uri(png: bytes) -> str:
    """A picture as the address of itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
