"""Jobs as containers of a Docker engine.

Calls that every job makes, and all streams, go over aiohttp to the engine's socket; what an
agent asks now and then (who the engine is, its networks, what it holds) goes through the
docker SDK in the thread pool. Measured per call on a two-core machine: 0.4 to 0.7 ms against
1.4 to 2.4 ms, most of it CPU time that the engine could have used.
"""
