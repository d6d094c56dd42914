"""Contract of every loss: a new file in pipeline/losses is tested here without an entry."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from pipeline import losses
from pipeline.errors import UserError
from pipeline.losses import DistillationLoss
from pipeline.models import SegOutput

NAMES = losses.available()
TEACHING = [name for name in NAMES if name != "none"]
#: Terms with detached weights: their gradient is on purpose not the derivative of their value.
DIFFERENTIABLE: dict[str, dict[str, Any]] = {"pfs": {"imitation_weight": 0.0}}


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def learnable(output: SegOutput) -> SegOutput:
    return output.map(lambda tensor: tensor.clone().requires_grad_())


def tensors(output: SegOutput) -> list[Tensor]:
    return [output.logits, output.embedding, *output.stages]


def test_the_losses_of_the_mission_and_their_baselines_exist() -> None:
    methods = {"cirkd", "idd", "i2ckd", "pfs"}
    baselines = {"none", "kd", "fitnet", "cwd", "skd", "ifvd", "at", "dist", "aicsd", "mgd", "af_dcd"}
    assert methods | baselines <= set(NAMES)


def test_no_distillation_has_no_terms(bench: Any) -> None:
    loss = bench.build("none")
    assert not loss.uses_teacher and loss(bench.student(), bench.student().detach(), bench.labels()) == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_says_whether_it_reads_labels(bench: Any, name: str) -> None:
    def values(target: Tensor) -> dict[str, Tensor]:
        torch.manual_seed(0)
        loss = bench.build(name).train()
        terms: dict[str, Tensor] = loss(bench.student(), bench.teacher(), target)
        return terms

    labelled, void = values(bench.labels()), values(torch.full_like(bench.labels(), bench.IGNORE))
    differs = any(not torch.equal(labelled[term], void[term]) for term in labelled)
    assert differs == bench.build(name).uses_labels


@pytest.mark.parametrize("name", NAMES)
def test_unknown_option_names_the_closest(name: str) -> None:
    with pytest.raises(UserError, match="wieght: unknown option"):
        losses.build(name, {"wieght": 1.0})


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda")


#: Options that select another path of a loss; each is also tested with the cases where nothing can be learnt.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *(("pfs", {"gap": gap, "normalizer": n}) for gap in ("conf", "ce", "kl", "l1") for n in ("gap", "pixels")),
    ("pfs", {"metric": "l2"}),
    *(
        ("i2ckd", {"prototypes": p, "mining": m, "negatives": "both"})
        for p in ("batch", "image")
        for m in ("all", "hard")
    ),
    ("i2ckd", {"layers": ["stage1", "stage2", "embedding"], "normalize": False}),
    ("idd", {"position_weight": 1.0, "normalize": "mean"}),
    ("idd", {"weight": 0.0, "position_weight": 1.0}),
    ("cirkd", {"mask_ignored": True, "max_anchors": 3}),
    ("cirkd", {"official_enqueue": True, "pool": 2}),
    ("cwd", {"feature_weight": 50.0}),
    ("aicsd", {"adaptive": False, "scope": "batch"}),
    ("af_dcd", {"feature": "embedding", "adapter": "norm", "normalize": "channels"}),
    ("mgd", {"adapter": "norm", "normalize": "channels"}),
    ("idd", {"position_weight": 1.0, "adapter": "norm", "normalize": "channels"}),
    ("skd", {"mode": "grid"}),
]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("case", ["all ignored", "one class", "dead features", "one image"])
def test_every_variant_stays_finite(name: str, options: dict[str, Any], case: str, bench: Any) -> None:
    images = 1 if case == "one image" else 2
    student, labels = bench.student(images=images), bench.labels(images=images)
    if case == "all ignored":
        labels = torch.full_like(labels, bench.IGNORE)
    elif case == "one class":
        labels = torch.ones_like(labels)
    elif case == "dead features":
        student = student.map(torch.zeros_like)
    student = learnable(student)
    loss = bench.build(name, **options)
    value = total(loss(student, bench.teacher(images=images), labels))
    value.backward()
    gradients = [x.grad for x in (*tensors(student), *loss.parameters()) if x.grad is not None]
    assert bool(value.isfinite()) and gradients and all(bool(gradient.isfinite().all()) for gradient in gradients)


#: Means over images: the gradient that processes average is that of the whole batch.
BY_IMAGE: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("kd", "fitnet", "cwd", "skd", "ifvd", "at")},
    **{name: {"mask_ratio": 0.0} for name in ("mgd", "af_dcd")},  # other masks in each process
    "aicsd": {"adaptive": False},
}
#: Parts of the other losses that are means over images too.
PARTS = [("cirkd", {"pixel_weight": 0.0, "region_weight": 0.0}), ("pfs", {"imitation_weight": 0.0})]


def whole_and_halves(name: str, options: dict[str, Any], bench: Any) -> tuple[float, float]:
    """The value of a batch of 4, and the mean of the values of its halves; statistics are those of the whole."""
    loss, labels = bench.build(name, **options), bench.labels(images=4)
    student, teacher = bench.student(images=4), bench.teacher(images=4)
    loss(student, teacher, labels)
    loss.eval()

    def value(part: slice) -> float:
        outputs = (output.map(lambda x: x[part]) for output in (student, teacher))
        return float(total(loss(*outputs, labels[part])).detach())

    return value(slice(0, 4)), (value(slice(0, 2)) + value(slice(2, 4))) / 2


@pytest.mark.parametrize(("name", "options"), [*BY_IMAGE.items(), *PARTS])
def test_halves_of_a_batch_average_to_the_whole(name: str, options: dict[str, Any], bench: Any) -> None:
    whole, halves = whole_and_halves(name, options, bench)
    assert halves == pytest.approx(whole, rel=1e-9)


def test_the_page_about_processes_says_which_losses_are_the_same(bench: Any) -> None:
    page = (Path(__file__).parents[2] / "docs/scaling.md").read_text("utf-8")
    rows = [row.split("|")[1:3] for row in page.splitlines() if re.match(r"\| [^|]*`\w+`", row)]
    (same,) = (set(re.findall(r"`(\w+)`", losses_)) for losses_, _ in rows if "means over images" in losses_)
    others = [name for losses_, _ in rows for name in re.findall(r"`(\w+)`", losses_) if name not in same]
    assert same == set(BY_IMAGE) and sorted(set(others) & set(NAMES)) == sorted(set(TEACHING) - same)
    for name in sorted(set(TEACHING) - same):
        whole, halves = whole_and_halves(name, {}, bench)
        assert halves != pytest.approx(whole, rel=1e-6), name
    (pfs,) = (text for losses_, text in rows if "`pfs`" in losses_)
    assert "within an image" in pfs


@pytest.mark.parametrize("name", TEACHING)
class TestContract:
    def test_terms_are_finite_scalars_and_only_the_student_learns(self, name: str, bench: Any) -> None:
        student, teacher = learnable(bench.student()), learnable(bench.teacher())
        loss = bench.build(name)
        assert loss.uses_teacher
        terms = loss(student, teacher, bench.labels())  # detached by the loss itself, should a caller forget
        assert terms and all(term.shape == () and bool(torch.isfinite(term)) for term in terms.values())
        total(terms).backward()
        gradients = [tensor.grad for tensor in tensors(student) if tensor.grad is not None]
        assert gradients and all(bool(gradient.isfinite().all()) for gradient in gradients)
        assert any(bool(gradient.abs().sum() > 0) for gradient in gradients)
        assert all(tensor.grad is None for tensor in tensors(teacher))

    def test_inputs_are_not_changed(self, name: str, bench: Any) -> None:
        student, teacher, labels = bench.student(), bench.teacher(), bench.labels()
        before = [tensor.clone() for tensor in (*tensors(student), *tensors(teacher), labels)]
        bench.build(name)(student, teacher, labels)
        after = [*tensors(student), *tensors(teacher), labels]
        assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))

    def test_gradient_is_the_derivative(self, name: str, bench: Any) -> None:
        loss = bench.build(name, **DIFFERENTIABLE.get(name, {}))
        student, teacher, labels = bench.student(), bench.teacher(), bench.labels()

        def value(*inputs: Tensor) -> Tensor:
            torch.manual_seed(0)  # masks and samples are drawn again
            replaced = dict(zip(used, inputs, strict=True))
            logits, embedding, *stages = (replaced.get(i, tensor) for i, tensor in enumerate(tensors(student)))
            output = replace(student, logits=logits, embedding=embedding, stages=tuple(stages))
            return total(copy.deepcopy(loss)(output, teacher, labels))  # queues and counters as they were

        probe = learnable(student)
        total(copy.deepcopy(loss)(probe, teacher, labels)).backward()
        used = [i for i, tensor in enumerate(tensors(probe)) if tensor.grad is not None]
        assert torch.autograd.gradcheck(value, [tensors(probe)[i].detach().requires_grad_() for i in used])

    @pytest.mark.parametrize("classes", ["all ignored", "one", "one absent"])
    def test_missing_classes_stay_finite(self, name: str, classes: str, bench: Any) -> None:
        labels = {
            "all ignored": torch.full((2, 8, 8), bench.IGNORE),
            "one": torch.ones(2, 8, 8, dtype=torch.int64),
            "one absent": bench.labels().where(bench.labels() != 1, torch.tensor(0)),
        }[classes]
        student = learnable(bench.student())
        value = total(bench.build(name)(student, bench.teacher(), labels))
        assert bool(torch.isfinite(value)) and value.requires_grad
        value.backward()
        for tensor in tensors(student):
            assert tensor.grad is None or bool(tensor.grad.isfinite().all())

    def test_dead_features_stay_finite(self, name: str, bench: Any) -> None:
        """A ReLU that never fires: whole vectors are exactly zero."""
        student = learnable(bench.student().map(torch.zeros_like))
        total(bench.build(name)(student, bench.teacher(), bench.labels())).backward()
        for tensor in tensors(student):
            assert tensor.grad is None or float(tensor.grad.abs().max()) < 1e4

    @pytest.mark.gpu
    def test_a_gpu_gives_the_same_terms(self, name: str, bench: Any, cuda: torch.device) -> None:
        loss = bench.build(name).eval()  # random masks and samples differ between devices
        if list(loss.buffers()) or name in {"mgd", "af_dcd"}:
            terms = loss.to(cuda).train()(*(x.map(lambda t: t.to(cuda)) for x in (bench.student(), bench.teacher())),
                                          bench.labels().to(cuda))  # fmt: skip
            assert all(bool(term.isfinite()) and term.device.type == "cuda" for term in terms.values())
            return
        expected = loss(bench.student(), bench.teacher(), bench.labels())
        on_gpu = loss.to(cuda)(
            bench.student().map(lambda t: t.to(cuda)),
            bench.teacher().map(lambda t: t.to(cuda)),
            bench.labels().to(cuda),
        )
        for key, term in on_gpu.items():
            torch.testing.assert_close(term.cpu(), expected[key])

    def test_one_image(self, name: str, bench: Any) -> None:
        terms = bench.build(name)(bench.student(images=1), bench.teacher(images=1), bench.labels(images=1))
        assert bool(torch.isfinite(total(terms)))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_under_autocast_it_computes_in_float32(self, name: str, dtype: torch.dtype, bench: Any) -> None:
        loss = bench.build(name).float()
        student, teacher = (output.map(lambda x: x.to(dtype)) for output in (bench.student(), bench.teacher()))
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=dtype):
            terms = copy.deepcopy(loss)(student, teacher, bench.labels())
        torch.manual_seed(0)
        reference = loss(student.map(Tensor.float), teacher.map(Tensor.float), bench.labels())
        for key, term in terms.items():
            assert term.dtype == torch.float32
            torch.testing.assert_close(term, reference[key])

    def test_saving_and_loading_keeps_the_state(self, name: str, bench: Any) -> None:
        loss, other = bench.build(name), bench.build(name)
        loss(bench.student(), bench.teacher(), bench.labels())
        other.load_state_dict(loss.state_dict())
        values = []
        for copied in (loss, other):
            torch.manual_seed(1)
            values.append(total(copied(bench.student(3), bench.teacher(4), bench.labels(1))))
        assert torch.equal(*values)


def test_the_loss_in_the_documentation_runs_unchanged(bench: Any) -> None:
    guide = (Path(__file__).parents[2] / "docs/extending.md").read_text(encoding="utf-8")
    code = guide.split("```python\n")[1].split("```")[0]
    namespace: dict[str, Any] = {"__name__": "logit_mse"}
    exec(compile(code, "docs/extending.md", "exec"), namespace)
    student, teacher = bench.student(), bench.teacher()
    loss: DistillationLoss = namespace["LogitMSE"](weight=2.0)
    expected = 2.0 * float((student.logits - teacher.logits).pow(2).mean())
    assert float(loss(student, teacher, torch.zeros(1))["logit_mse"]) == pytest.approx(expected, rel=1e-12)

    def value(logits: Tensor) -> Tensor:
        return loss(replace(student, logits=logits), teacher, torch.zeros(1))["logit_mse"]

    assert torch.autograd.gradcheck(value, (student.logits.clone().requires_grad_(),))


def test_the_host_waits_for_the_device_only_where_the_docs_say_so(bench: Any) -> None:
    """Tensors without data stand in for a GPU's: what the host would have to read from them is an error."""
    waiting = set()
    for name in NAMES:
        loss, fake = bench.build(name), FakeTensorMode(allow_non_fake_inputs=True)
        student, teacher = (output.map(fake.from_tensor) for output in (bench.student(), bench.teacher()))
        try:
            with fake:
                loss(student, teacher, fake.from_tensor(bench.labels()))
        except (DataDependentOutputException, DynamicOutputShapeException):
            waiting.add(name)
    text = (Path(__file__).parents[2] / "docs/training.md").read_text("utf-8")
    sentence = re.search(r"the host waits for their number in every step:([^.]*)\.", text)
    assert sentence is not None and set(re.findall(r"`(\w+)`", sentence[1])) == waiting
