"""What a translated Envoy configuration does with one request, without an Envoy: the evaluator behind `headrace trace`.

`proxy.follow(resources, request)` is the one way in. It reads what `translate` made, in the form of
`headrace translate -o json`, so that it cannot differ from what is sent, and decides as Envoy does: listener, filter
chain (`listeners`), policies (`filters`, `rbac`), virtual host and route (`routes`), cluster and endpoints
(`destinations`). Pure; a flow test asks a real Envoy the same questions.
"""
