"""``initcheck explain`` and ``initcheck rules``."""

from __future__ import annotations

import click

from initcheck.commands.options import COLORS, CONTEXT
from initcheck.commands.running import put, terminal


@click.command(context_settings=CONTEXT, help="Print the page of one or more rules, by code (IC201) or name.")
@click.argument("codes", nargs=-1, required=True, metavar="CODE...")
@click.option("--color", type=click.Choice(COLORS), default="auto", help="[default: auto]")
def explain(codes: tuple[str, ...], color: str) -> int:
    """``initcheck explain CODE``: laid out on a terminal, plain Markdown elsewhere."""
    from initcheck.explain import find_page, page_markdown, page_rendered

    try:
        pages = [find_page(code) for code in codes]
    except LookupError as error:
        raise click.UsageError(str(error)) from None
    colored, width = terminal(color)
    for page in pages:
        put(page_rendered(page, width) if colored else page_markdown(page))
    return 0


@click.command(
    context_settings=CONTEXT,
    help="List all rules. (To check a folder that is called rules: initcheck ./rules)",
)
@click.option(
    "--output-format", type=click.Choice(["text", "markdown", "json"]), default="text", help="[default: text]"
)
def rules(output_format: str) -> int:
    """``initcheck rules``."""
    from initcheck.catalogue import rule_pages
    from initcheck.explain import RULE_FORMATS

    put(RULE_FORMATS[output_format](rule_pages().values()))
    return 0
