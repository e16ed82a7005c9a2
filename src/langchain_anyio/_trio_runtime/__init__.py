"""Run langchain-core itself on trio: its own code, with a small namespace in place of asyncio.

- `enabling`: `enable_trio()` and `disable_trio()`, which import trio only when they are called.
- `patching`: puts the namespace and the wrappers into the modules of a library and takes them out;
  `originals`: the original object of each replacement.
- `namespace`: asyncio's own object for a name on asyncio, its port on trio.
- `asyncio_api`: the ports of asyncio's names.
- `wrappers`, `langgraph`, `langchain_classic`, `core_stream`: wrappers for code that needs more
  than a namespace.
- `asyncio_usage`: finds the names of asyncio that a package uses.
"""
