"""XSTest: refusals of unsafe requests, and of safe requests that only sound unsafe."""
