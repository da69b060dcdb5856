"""The plan of resources: it fits with room for tasks, or says why not."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from raydistill.errors import ResourceError
from raydistill.resources import STUDENT_BYTES, TASK_CPUS, TEACHER_BYTES, Node, Request, make_plan, tasks_reserve

TASK = 0.25  # CPUs of a read, write or tokenising task
TINY = 1e-6


# A second opinion on what fits: first-fit packing, GPU by GPU.


def pack(nodes, count, cpus, gpus, spare_cpus=0.0):
    """Put actors one by one on the first node that has room beside `spare_cpus`.

    Returns the CPUs left on each node, or None where an actor found no place.
    """
    left = [node.cpus for node in nodes]
    devices = [[1.0] * math.floor(node.gpus + TINY) for node in nodes]
    for _ in range(count):
        for i in range(len(nodes)):
            if left[i] - spare_cpus + TINY < cpus or not take(devices[i], gpus):
                continue
            left[i] -= cpus
            break
        else:
            return None
    return left


def take(devices, gpus):
    """Take a share of one device, or whole devices; False where there are none."""
    if gpus >= 1:
        free = [i for i, left in enumerate(devices) if left > 1 - TINY]
        if len(free) < gpus:
            return False
        for i in free[: round(gpus)]:
            devices[i] = 0.0
        return True
    for i, left in enumerate(devices):
        if left + TINY >= gpus:
            devices[i] -= gpus
            return True
    return gpus == 0


def assert_fits(nodes, count, cpus, gpus):
    """There is a place for everybody with a task's room left on each node; and if Ray packs nodes full, there is still
    room for a task somewhere."""
    assert pack(nodes, count, cpus, gpus, spare_cpus=TASK) is not None
    left = pack(nodes, count, cpus, gpus)
    assert left is not None
    assert max(left) >= TASK - 1e-4


CPUS = st.one_of(st.sampled_from([0, 0.1, 0.25, 0.5, 1, 2, 4, 8, 64]), st.integers(0, 520).map(lambda n: n / 4))
NODES = st.lists(st.builds(Node, cpus=CPUS, gpus=st.integers(0, 8)), max_size=6)
ACTORS = st.one_of(
    st.none(),
    st.integers(1, 40).map(str),
    st.tuples(st.integers(1, 20), st.integers(0, 20)).map(lambda pair: f"{pair[0]}:{pair[0] + pair[1]}"),
)
SIZES = st.one_of(st.none(), st.sampled_from([0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 4, 16]))
REQUESTS = st.builds(
    Request,
    teacher_actors=ACTORS,
    teacher_gpus_per_actor=st.sampled_from([None, None, 0, 0.1, 0.25, 0.3, 0.4, 0.5, 1]),
    teacher_cpus_per_actor=SIZES,
    train_workers=ACTORS,
    gpus_per_train_worker=st.sampled_from([None, None, 0, 1]),
    cpus_per_train_worker=SIZES,
    use_cpu=st.booleans(),
)


@settings(max_examples=300)
@given(NODES, REQUESTS)
def test_a_plan_fits_beside_the_tasks_in_both_stages(nodes, request):
    try:
        plan = make_plan(nodes, request)
    except ResourceError:
        return
    assert_fits(nodes, plan.teacher_actors_min, plan.teacher_cpus, plan.teacher_gpus)
    assert_fits(nodes, plan.train_workers_min, plan.train_cpus, plan.train_gpus)
    assert 0 < TASK_CPUS <= TASK


@example([Node(4, 0)], Request(teacher_actors="1:4", teacher_cpus_per_actor=1))
@given(NODES, REQUESTS)
def test_a_pool_that_grows_to_its_most_leaves_room_for_tasks(nodes, request):
    try:
        plan = make_plan(nodes, request)
    except ResourceError:
        return
    # As many of the pool's most as Ray finds a place for, without a thought for tasks.
    count = plan.teacher_actors_max
    while (left := pack(nodes, count, plan.teacher_cpus, plan.teacher_gpus)) is None:
        count -= 1
    assert max(left) >= TASK - 1e-4


@example([Node(8, 0), Node(0.1, 0)])
@example([Node(4, 1), Node(0, 1)])
@given(NODES)
def test_whatever_has_room_for_an_actor_and_a_task_gets_a_plan(nodes):
    assume(any(node.cpus >= 0.5 for node in nodes))
    plan = make_plan(nodes, Request(use_cpu=True))
    assert plan.teacher_actors_min >= 1
    assert plan.train_workers >= 1


@example([Node(8, 0), Node(0.1, 0)], 6, 1)
@given(NODES, st.integers(1, 30), st.sampled_from([0.25, 0.5, 1, 2]))
def test_actors_of_a_given_size_are_refused_only_where_they_do_not_fit(nodes, count, cpus):
    assume(any(node.cpus > 0.5 for node in nodes))
    request = Request(teacher_actors=str(count), teacher_cpus_per_actor=cpus, use_cpu=True)
    fitting = sum(max(0, math.floor((node.cpus - tasks_reserve(node)) / cpus + TINY)) for node in nodes)
    if fitting >= count:
        assert make_plan(nodes, request).teacher_actors_min == count
    else:
        with pytest.raises(ResourceError, match="--teacher-actors"):
            make_plan(nodes, request)


@given(NODES, REQUESTS)
def test_what_is_asked_for_is_what_the_plan_gives(nodes, request):
    try:
        plan = make_plan(nodes, request)
    except ResourceError:
        return
    if request.teacher_actors is not None:
        least = int(request.teacher_actors.split(":")[0])
        assert plan.teacher_actors_min == least
        assert plan.teacher_actors_max >= least
    if request.train_workers is not None:
        least, _, most = request.train_workers.partition(":")
        assert (plan.train_workers_min, plan.train_workers) == (int(least), int(most or least))
    for asked, given_ in [
        (request.teacher_cpus_per_actor, plan.teacher_cpus),
        (request.teacher_gpus_per_actor, plan.teacher_gpus),
        (request.cpus_per_train_worker, plan.train_cpus),
        (request.gpus_per_train_worker, plan.train_gpus),
    ]:
        assert asked is None or given_ == asked


@given(NODES, REQUESTS)
def test_sizes_are_such_as_ray_takes(nodes, request):
    try:
        plan = make_plan(nodes, request)
    except ResourceError:
        return
    for size in (plan.teacher_cpus, plan.train_cpus, plan.teacher_gpus, plan.train_gpus):
        assert round(size, 4) == size
        assert size >= 0
    assert plan.teacher_cpus > 0
    assert plan.train_cpus > 0


@given(NODES, REQUESTS)
def test_threads_are_the_cpus_rounded_up(nodes, request):
    try:
        plan = make_plan(nodes, request)
    except ResourceError:
        return
    assert plan.teacher_threads == max(1, math.ceil(plan.teacher_cpus))
    assert plan.train_threads == max(1, math.ceil(plan.train_cpus))


@given(NODES, REQUESTS)
def test_use_cpu_leaves_gpus_alone(nodes, request):
    if not request.use_cpu:
        return
    try:
        plan = make_plan(nodes, request)
    except ResourceError:
        return
    assert plan.teacher_gpus == plan.train_gpus == 0


# One node, nothing asked. A quarter of it, at most two CPUs, is left to tasks. Without a GPU, teachers take up to four
# CPUs each and one train worker takes up to 32; with GPUs each gets one, and a fair share of the CPUs up to one.
ONE_NODE = {
    # (cpus, gpus): (teacher actors, CPUs, GPUs, threads), (train workers, CPUs, GPUs, threads)
    (1, 0): ((1, 0.75, 0, 1), (1, 0.75, 0, 1)),
    (1, 1): ((1, 0.75, 1, 1), (1, 0.75, 1, 1)),
    (1, 8): ((8, 0.09, 1, 1), (8, 0.09, 1, 1)),
    (2, 0): ((1, 1.5, 0, 2), (1, 1.5, 0, 2)),
    (2, 1): ((1, 1, 1, 1), (1, 1, 1, 1)),
    (2, 8): ((8, 0.18, 1, 1), (8, 0.18, 1, 1)),
    (4, 0): ((1, 3, 0, 3), (1, 3, 0, 3)),
    (4, 1): ((1, 1, 1, 1), (1, 1, 1, 1)),
    (4, 8): ((8, 0.25, 1, 1), (8, 0.25, 1, 1)),
    (64, 0): ((15, 4, 0, 4), (1, 32, 0, 32)),
    (64, 1): ((1, 1, 1, 1), (1, 1, 1, 1)),
    (64, 8): ((8, 1, 1, 1), (8, 1, 1, 1)),
}


@pytest.mark.parametrize(("cpus", "gpus"), ONE_NODE)
def test_one_node_is_laid_out_by_itself(cpus, gpus):
    plan = make_plan([Node(cpus, gpus)], Request())
    teacher, train = ONE_NODE[cpus, gpus]
    assert (plan.teacher_actors_min, plan.teacher_cpus, plan.teacher_gpus, plan.teacher_threads) == teacher
    assert plan.teacher_actors_max == plan.teacher_actors_min
    assert (plan.train_workers, plan.train_cpus, plan.train_gpus, plan.train_threads) == train


@pytest.mark.parametrize(("cpus", "gpus"), ONE_NODE)
def test_use_cpu_lays_a_node_out_as_if_it_had_no_gpu(cpus, gpus):
    assert make_plan([Node(cpus, gpus)], Request(use_cpu=True)) == make_plan([Node(cpus, 0)], Request())


def test_several_nodes_add_up():
    plan = make_plan([Node(4, 0), Node(4, 0), Node(64, 0)], Request(teacher_cpus_per_actor=1))
    assert plan.nodes == 3
    assert plan.teacher_actors_min == 3 + 3 + 62


def test_gpus_of_several_nodes_add_up_and_cpu_nodes_hold_no_gpu_actor():
    plan = make_plan([Node(8, 4), Node(64, 0), Node(4, 2)], Request())
    assert (plan.teacher_actors_min, plan.teacher_gpus) == (6, 1)
    assert (plan.train_workers, plan.train_gpus) == (6, 1)


def test_a_full_node_takes_nothing_from_the_others():
    alone = make_plan([Node(8, 0)], Request())
    beside = make_plan([Node(8, 0), Node(0.1, 0)], Request())
    assert beside.teacher_actors_min == alone.teacher_actors_min
    assert beside.train_cpus == alone.train_cpus


@pytest.mark.parametrize(("share", "actors"), [(0.5, 4), (0.4, 4), (0.3, 6), (0.25, 8), (1, 2)])
def test_a_share_of_a_gpu_lies_within_one_gpu(share, actors):
    plan = make_plan([Node(16, 2)], Request(teacher_gpus_per_actor=share))
    assert plan.teacher_actors_min == actors
    assert plan.teacher_gpus == share


def test_the_teacher_may_use_gpus_while_the_student_does_not():
    plan = make_plan([Node(16, 2)], Request(gpus_per_train_worker=0))
    assert (plan.teacher_gpus, plan.train_gpus, plan.train_workers) == (1, 0, 1)


@pytest.mark.parametrize(("text", "least", "most"), [("1", 1, 1), ("3", 3, 3), ("2:5", 2, 5), ("4:4", 4, 4)])
def test_actors_are_a_number_or_a_range(text, least, most):
    plan = make_plan([Node(64, 0)], Request(teacher_actors=text))
    assert (plan.teacher_actors_min, plan.teacher_actors_max) == (least, most)


@pytest.mark.parametrize("text", ["0", "-1", "2:1", "0:4", "1:", ":3", "a", "1:2:3", "", "1.5", "1-2"])
def test_any_other_text_for_actors_is_an_error_that_says_the_form(text):
    with pytest.raises(ResourceError, match=r"--teacher-actors .*MIN:MAX"):
        make_plan([Node(64, 0)], Request(teacher_actors=text))


def test_actors_asked_for_share_a_small_node():
    plan = make_plan([Node(2, 0)], Request(teacher_actors="4"))
    assert plan.teacher_actors_min == 4
    assert plan.teacher_cpus * 4 <= 2 - TASK


NOT_FITTING = [
    (Request(teacher_actors="100"), "--teacher-actors 100"),
    (Request(teacher_cpus_per_actor=4.0), "--teacher-actors"),
    (Request(train_workers="100"), "--train-workers 100"),
    (Request(train_workers="2", cpus_per_train_worker=2.0), "--train-workers 2"),
    (Request(teacher_gpus_per_actor=1, teacher_actors="2"), "--teacher-actors 2"),
    (Request(train_workers="2", gpus_per_train_worker=1), "--train-workers 2"),
]


@pytest.mark.parametrize(("request_", "option"), NOT_FITTING)
def test_what_does_not_fit_is_an_error_that_names_the_option_and_what_is_free(request_, option):
    with pytest.raises(ResourceError) as error:
        make_plan([Node(2, 1, "10.0.0.7"), Node(1.5, 0, "10.0.0.8")], request_)
    message = str(error.value)
    assert message.startswith(option)
    assert "10.0.0.7 2 CPU 1 GPU" in message
    assert "10.0.0.8 1.5 CPU 0 GPU" in message
    assert "\n" not in message


def test_as_many_teachers_are_planned_as_the_memory_holds():
    nodes = [Node(64, 0, memory=10e9), Node(64, 0, memory=3.9e9), Node(8, 0)]
    in_memory = make_plan(nodes, Request(teacher_cpus_per_actor=1), teacher_parameters=int(2e9 / TEACHER_BYTES))
    assert in_memory.teacher_actors_min == 5 + 1 + 6  # of the last node the memory is not known: CPUs decide
    assert make_plan(nodes, Request(teacher_cpus_per_actor=1)).teacher_actors_min == 62 + 62 + 6


def test_models_that_no_memory_holds_are_an_error_that_says_what_they_need():
    nodes = [Node(8, 0, "10.0.0.7", memory=3e9), Node(8, 0, "10.0.0.8", memory=1e9)]
    with pytest.raises(
        ResourceError, match=r"^--teacher-actors 1 of .* 4\.0 GB of memory at the least, each: 0 fit"
    ) as e:
        make_plan(nodes, Request(), teacher_parameters=int(4e9 / TEACHER_BYTES))
    assert "10.0.0.7 8 CPU 0 GPU 3.0 GB, 10.0.0.8 8 CPU 0 GPU 1.0 GB" in str(e.value)
    with pytest.raises(ResourceError, match=r"^--train-workers 5 of .*: 4 fit"):
        make_plan(nodes, Request(train_workers="5"), student_parameters=int(0.9e9 / STUDENT_BYTES))


def test_a_model_on_a_gpu_is_not_held_against_the_nodes_memory():
    plan = make_plan([Node(8, 1, memory=1e9)], Request(), teacher_parameters=10**10, student_parameters=10**10)
    assert (plan.teacher_gpus, plan.train_gpus) == (1, 1)


WRONG = [
    (Request(teacher_cpus_per_actor=0), "--teacher-cpus-per-actor 0 must be above 0"),
    (Request(teacher_cpus_per_actor=-1), "--teacher-cpus-per-actor -1 must be above 0"),
    (Request(cpus_per_train_worker=0), "--cpus-per-train-worker 0 must be above 0"),
    (Request(train_workers="0"), "--train-workers 0 must be N or MIN:MAX"),
    (Request(train_workers="-3"), "--train-workers -3 must be N or MIN:MAX"),
    (Request(teacher_gpus_per_actor=-0.5), "--teacher-gpus-per-actor -0.5 must be"),
    (Request(teacher_gpus_per_actor=1.5), "--teacher-gpus-per-actor 1.5 must be"),
    (Request(teacher_gpus_per_actor=2), "--teacher-gpus-per-actor 2 must be 0, a fraction of a GPU, or 1"),
    (Request(gpus_per_train_worker=0.5), "--gpus-per-train-worker 0.5 must be 0 or 1"),
    (Request(gpus_per_train_worker=2), "--gpus-per-train-worker 2 must be 0 or 1"),
]


@pytest.mark.parametrize(("request_", "message"), WRONG)
def test_a_number_out_of_range_is_an_error_that_names_its_option(request_, message):
    with pytest.raises(ResourceError, match=f"^{message}"):
        make_plan([Node(8, 2)], request_)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "option", ["teacher_gpus_per_actor", "teacher_cpus_per_actor", "gpus_per_train_worker", "cpus_per_train_worker"]
)
def test_a_size_that_is_no_number_is_an_error_in_our_words(option, value):
    with pytest.raises(ResourceError, match="--"):
        make_plan([Node(8, 2)], Request(**{option: value}))


@pytest.mark.parametrize("option", ["teacher_gpus_per_actor", "gpus_per_train_worker"])
@pytest.mark.parametrize(("node", "use_cpu"), [(Node(8, 0), False), (Node(8, 2), True), (Node(8, 0.5), False)])
def test_a_gpu_where_there_is_none_to_have_is_an_error_that_names_the_option(option, node, use_cpu):
    with pytest.raises(ResourceError, match=f"^--{option.replace('_', '-')} 1: .*no free GPU"):
        make_plan([node], Request(**{option: 1}, use_cpu=use_cpu))


@pytest.mark.parametrize("nodes", [[], [Node(0, 0)], [Node(0, 0), Node(0, 0)]])
def test_a_cluster_with_nothing_free_is_an_error(nodes):
    with pytest.raises(ResourceError, match="no free CPU"):
        make_plan(nodes, Request())


@given(CPUS.filter(lambda cpus: cpus > 0))
def test_tasks_keep_a_quarter_of_a_node_but_at_least_one_task_and_at_most_two_cpus(cpus):
    share = tasks_reserve(Node(cpus))
    assert TASK <= share <= 2
    assert share == pytest.approx(cpus / 4) or share in (TASK, 2)


@pytest.mark.parametrize("cpus", [0.5, 1, 2, 4, 64])
def test_no_actor_is_of_the_size_of_a_task(cpus):
    # Ray Data fuses a read task into an actor of equal size, and the actor then waits for the disk.
    for actors in (None, "1", "2"):
        try:
            plan = make_plan([Node(cpus)], Request(teacher_actors=actors))
        except ResourceError:
            continue
        assert plan.teacher_cpus != TASK_CPUS
