"""`headrace delete KIND NAME`: take a document out of the running mesh."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.app.cli.up import DEFAULT_STATE, StateOption

app = typer.Typer(add_completion=False)


@app.command()
def delete(
    kind: Annotated[str, typer.Argument(help="Kind (virtualservice, vs, ...).")],
    name: Annotated[str, typer.Argument(help="Name of the document.")],
    namespace: Annotated[str, typer.Option("-n", "--namespace", help="Its namespace.")] = "default",
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Delete a document that `headrace apply` brought. One that a directory brought is deleted there."""
    from headrace.app.api.client import ApiClient

    answer = ApiClient(state).call("DELETE", f"/v1/documents/{kind}/{namespace}/{name}")
    print(answer["deleted"])
