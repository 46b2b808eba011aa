"""Graphs whose edges say more than that one node comes after another: programmatic dependent launch."""

from harness import run

GRAPHS = """
import ctypes, driver
from ctypes import byref, c_size_t, c_uint, c_uint64, c_void_p

LOSSY_QUERY, UPDATE_FAILURE = 402, 910
ORDINARY, PROGRAMMATIC = 0, 0x1_0001  # from port 1, to port 0, type 1

class Params(ctypes.Structure):
    _fields_ = [("kind", c_uint), ("reserved", c_uint * 3), ("function", c_void_p), ("shape", c_uint * 6),
                ("shared", c_uint), ("parameters", c_void_p), ("extra", c_void_p), ("kernel", c_void_p),
                ("context", c_void_p), ("rest", c_uint64 * 21)]

class Attribute(ctypes.Structure):
    _fields_ = [("id", c_uint), ("pad", c_uint), ("value", c_uint64 * 8)]

class Config(ctypes.Structure):
    _fields_ = [("shape", c_uint * 6), ("shared", c_uint), ("stream", c_void_p), ("attributes", c_void_p),
                ("count", c_uint)]

class UpdateInfo(ctypes.Structure):
    _fields_ = [("result", c_uint), ("node", c_void_p), ("origin", c_void_p)]

assert ctypes.sizeof(Params) == 256 and ctypes.sizeof(Config) == 56

context = driver.start()
add = driver.function(driver.module(), "add")
memory = driver.alloc(4)
values = [c_uint64(memory), c_uint(1), c_uint(1)]
pointers = (c_void_p * 3)(*map(ctypes.addressof, values))

def nodes_of(*nodes):
    return (c_void_p * len(nodes))(*nodes)

def new_graph():
    graph = c_void_p()
    driver.call("cuGraphCreate", byref(graph), 0)
    return graph

def add_node(graph, after=(), edges=()):
    params = Params(kind=0, function=add, shape=(1,) * 6, parameters=ctypes.addressof(pointers))
    node = c_void_p()
    data = (c_uint64 * len(edges))(*edges) if edges else None
    driver.call("cuGraphAddNode_v2", byref(node), graph, nodes_of(*after), data, c_size_t(len(after)), byref(params))
    return node.value

def edges_of(graph, ask=8):
    start, end, data, count = (c_void_p * ask)(), (c_void_p * ask)(), (c_uint64 * ask)(), c_size_t(ask)
    driver.call("cuGraphGetEdges_v2", graph, start, end, data, byref(count))
    return sorted(zip(start[:count.value], end[:count.value], data[:count.value]))

def neighbours(name, node):
    nodes, data, count = (c_void_p * 8)(), (c_uint64 * 8)(), c_size_t(8)
    driver.call(name + "_v2", c_void_p(node), nodes, data, byref(count))
    return sorted(zip(nodes[:count.value], data[:count.value]))

def replay(graph, on):
    driver.to_device(memory, bytes(4))
    made = c_void_p()
    driver.call("cuGraphInstantiateWithFlags", byref(made), graph, c_uint64(0))
    driver.call("cuGraphLaunch", made, on)
    driver.synchronize(on)
    return made, int.from_bytes(driver.from_device(memory, 4), "little")
"""


def test_edge_data_stay_with_their_edges(server, bystander):
    """Nodes and edges of a graph made by hand, as XLA makes them."""
    client = run(server, GRAPHS + """
graph = new_graph()
first = add_node(graph)
second = add_node(graph, [first], [PROGRAMMATIC])
third = add_node(graph, [first, second], [ORDINARY, PROGRAMMATIC])
all = sorted([(first, second, PROGRAMMATIC), (first, third, ORDINARY), (second, third, PROGRAMMATIC)])
assert edges_of(graph) == all, edges_of(graph)
assert neighbours("cuGraphNodeGetDependencies", third) == sorted([(first, ORDINARY), (second, PROGRAMMATIC)])
assert neighbours("cuGraphNodeGetDependentNodes", first) == sorted([(second, PROGRAMMATIC), (third, ORDINARY)])

# Whoever cannot be told of the data is told that there are some; a count loses nothing.
start, end, count = (c_void_p * 8)(), (c_void_p * 8)(), c_size_t(8)
assert driver.code_of(driver.call, "cuGraphGetEdges", graph, start, end, byref(count)) == LOSSY_QUERY
driver.call("cuGraphGetEdges", graph, None, None, byref(count))
assert count.value == 3
for name, node in [("cuGraphNodeGetDependencies", third), ("cuGraphNodeGetDependentNodes", first)]:
    count = c_size_t(8)
    assert driver.code_of(driver.call, name, c_void_p(node), start, byref(count)) == LOSSY_QUERY
    driver.call(name, c_void_p(node), None, byref(count))
    assert count.value == 2

# An edge is named with its data.
one = nodes_of(first), nodes_of(second)
size = c_size_t(1)
assert driver.code_of(driver.call, "cuGraphRemoveDependencies", graph, *one, size) == driver.INVALID_VALUE
driver.call("cuGraphRemoveDependencies_v2", graph, *one, byref(c_uint64(PROGRAMMATIC)), size)
driver.call("cuGraphAddDependencies_v2", graph, *one, byref(c_uint64(PROGRAMMATIC)), size)
assert edges_of(graph) == all

stream = driver.stream()
made, value = replay(graph, stream)
assert value == 3, value

# An update to another graph says why it is refused.
other = new_graph()
add_node(other)
info = UpdateInfo(result=99)
assert driver.code_of(driver.call, "cuGraphExecUpdate_v2", made, other, byref(info)) == UPDATE_FAILURE
assert info.result == 2, info.result
driver.call("cuGraphExecUpdate_v2", made, graph, byref(info))
assert info.result == 0
""")
    assert not client.complaints(), client.errors


def test_captured_programmatic_launches_become_such_edges(server, bystander):
    client = run(server, GRAPHS + """
SERIALIZATION, PROGRAMMATIC_EVENT, COMPLETION_EVENT = 6, 7, 12
NO_TIMING, RELAXED = 2, 2

def launch(on, *attributes):
    list = (Attribute * len(attributes))(*(Attribute(id, 0, (c_uint64 * 8)(value)) for id, value in attributes))
    config = Config((1,) * 6, 0, on, ctypes.addressof(list), len(attributes))
    driver.call("cuLaunchKernelEx", byref(config), add, pointers, None)

def event(flags=NO_TIMING):
    made = c_void_p()
    driver.call("cuEventCreate", byref(made), flags)
    return made

stream, side = driver.stream(), driver.stream()
driver.to_device(memory, bytes(4))

# Without a capture: the event is one of the launch, and can be waited for.
point, second = event(), event()
driver.launch(add, 1, 1, *values, on=stream)
launch(stream, (SERIALIZATION, 1), (PROGRAMMATIC_EVENT, point.value), (COMPLETION_EVENT, second.value))
driver.call("cuStreamWaitEvent", side, point, 0)
driver.call("cuEventSynchronize", second)
driver.synchronize(side)
assert driver.from_device(memory, 4)[0] == 2
assert driver.code_of(driver.call, "cuEventQuery", point) == 0
try:
    launch(stream, (PROGRAMMATIC_EVENT, event(0).value))
    assert False, "an event with timing"
except driver.CudaError as error:
    assert error.code == driver.INVALID_VALUE

driver.call("cuStreamBeginCapture_v2", stream, RELAXED)
driver.launch(add, 1, 1, *values, on=stream)
launch(stream, (SERIALIZATION, 1))
launch(stream, (PROGRAMMATIC_EVENT, point.value))
driver.call("cuStreamWaitEvent", side, point, 0)

# The other stream's next node will come after this one with a programmatic edge.
status, graph, nodes, edges, count = c_uint(), c_void_p(), c_void_p(), c_void_p(), c_size_t()
ask = byref(status), None, byref(graph), byref(nodes)
driver.call("cuStreamGetCaptureInfo_v3", side, *ask, byref(edges), byref(count))
assert (status.value, count.value) == (1, 1)
assert c_uint64.from_address(edges.value).value == PROGRAMMATIC
node = c_void_p.from_address(nodes.value).value
assert driver.code_of(driver.call, "cuStreamGetCaptureInfo_v2", side, *ask, byref(count)) == LOSSY_QUERY
launch(side, (SERIALIZATION, 1))
driver.call("cuStreamUpdateCaptureDependencies_v2", side, nodes_of(node), byref(c_uint64(PROGRAMMATIC)), c_size_t(1), 0)
launch(side)
back = event()
driver.call("cuEventRecord", back, side)
driver.call("cuStreamWaitEvent", stream, back, 0)
driver.call("cuStreamEndCapture", stream, byref(graph))
kinds = sorted(data for _, _, data in edges_of(graph))
assert kinds.count(ORDINARY) == 2 and kinds.count(PROGRAMMATIC) == 3, kinds
assert replay(graph, stream)[1] == 5

# A capture that goes on behind a node of another graph.
graph = new_graph()
node = add_node(graph)
data = byref(c_uint64(PROGRAMMATIC))
driver.call("cuStreamBeginCaptureToGraph", stream, graph, nodes_of(node), data, c_size_t(1), RELAXED)
launch(stream)
driver.call("cuStreamEndCapture", stream, byref(c_void_p()))
assert [edge[2] for edge in edges_of(graph)] == [PROGRAMMATIC]
assert replay(graph, stream)[1] == 2
""")
    assert not client.complaints(), client.errors
