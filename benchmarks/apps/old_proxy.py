"""The layout that this replaces: a proxy in front that opens a client session for every request."""

import sys

from aiohttp import ClientSession, web


async def forward(request: web.Request) -> web.Response:
    body = await request.read()
    async with (
        ClientSession(auto_decompress=False) as session,
        session.request(
            request.method,
            f"http://127.0.0.1:{sys.argv[2]}{request.path_qs}",
            headers=request.headers,
            data=body,
            allow_redirects=False,
        ) as answer,
    ):
        return web.Response(status=answer.status, headers=answer.headers, body=await answer.read())


def main() -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)


if __name__ == "__main__":
    main()
