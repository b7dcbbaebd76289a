"""`headrace get KIND [NAME]`: show documents in force."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.app.cli.output import Format, FormatOption, print_data, print_rows
from headrace.app.cli.up import DEFAULT_STATE, StateOption

app = typer.Typer(add_completion=False)
NamespaceOption = Annotated[str | None, typer.Option("-n", "--namespace", help="Only of this namespace.")]


@app.command()
def get(
    kind: Annotated[str, typer.Argument(help="Kind (virtualservice, vs, services, ...) or `all`.")],
    name: Annotated[str | None, typer.Argument(help="Name of one document.")] = None,
    namespace: NamespaceOption = None,
    state: StateOption = DEFAULT_STATE,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show the documents in force, with where each came from. Secrets' values are never shown."""
    from headrace.app.api.client import ApiClient

    documents = ApiClient(state).call("GET", "/v1/documents", kind=kind, name=name, namespace=namespace)
    if output is not Format.TABLE:
        print_data(documents[0] if name is not None else documents, output)
        return
    rows = [
        {
            "kind": item["kind"],
            "namespace": item["metadata"].get("namespace", ""),
            "name": item["metadata"]["name"],
            "source": item["metadata"]["annotations"]["headrace.dev/source"],
            "version": item["metadata"]["resourceVersion"],
        }
        for item in documents
    ]
    headings = [("kind", "KIND"), ("namespace", "NAMESPACE"), ("name", "NAME"), ("version", "VERSION")]
    print_rows(rows, [*headings, ("source", "SOURCE")], output)
