"""langchain-core on trio: its own code, with a small namespace in the place of asyncio.

The namespace gives each name its meaning: asyncio's own object on asyncio, ours on trio.
The futures are tasks, and the functions around them, on trio.
The loop is what is asked of an event loop; the primitives are asyncio's own, which ask theirs for futures.
The owner is the public call that tasks and async generators belong to, and end with.
The wrapping lists by name what another namespace is not enough for.
The enabling puts all this into the modules of a library, those imported later too, and takes it out.
The originals say what each object that was put there stands for.
The survey reads which names of asyncio a package uses.

It imports trio, so nothing imports it before `enable_trio()` is called.
"""
