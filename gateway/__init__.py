"""The REST gateway: the only door for outside clients.

It owns no data. It turns strict JSON over HTTP into calls of the services' gRPC, acting for the user whose
token it checked, and turns every error into `application/problem+json` (RFC 9457) in one place:
`gateway.problems`.
"""
