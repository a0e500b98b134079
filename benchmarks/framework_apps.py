"""Small applications of the frameworks that people use. Apart from apps.py, so that its servers need no framework."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("Hello, World!")


starlette_app = Starlette(routes=[Route("/", hello)])


class Greeting(BaseModel):
    message: str
    count: int


fastapi_app = FastAPI()


@fastapi_app.get("/")
async def greet(count: int = 1) -> Greeting:
    return Greeting(message="Hello, World!", count=count)
