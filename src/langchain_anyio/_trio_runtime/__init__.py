"""langchain-core itself on trio: its own code, with a small namespace in the place of asyncio.

- `enabling`: `enable_trio()` and `disable_trio()`, which import trio only when they are called.
- `patching`: puts the namespace and the wrappers into the modules of a library and takes them out;
  `originals`: what each replacement stands for.
- `namespace`: asyncio's own object for a name on asyncio, ours on trio.
- `asyncio_api`: what the names are on trio.
- `wrappers`, `langgraph`, `langchain_classic`, `core_stream`: what needs more than a namespace.
- `asyncio_usage`: which names of asyncio a package uses.
"""
