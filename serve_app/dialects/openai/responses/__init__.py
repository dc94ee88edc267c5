"""OpenAI's Responses API: POST /v1/responses, and the endpoints of kept responses."""
