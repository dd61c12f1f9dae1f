"""The traps of nvidia-ml-py: calls that report success whatever happens, a code without a text, symbols not there.

Each trap is shown to be one in the binding that is installed, so that a later version that mends it is noticed; and
each is shown to be kept out of, or led to its verdict. Source: facts-nvml.md A.2, read in 13.615.71.
"""

from __future__ import annotations

import pathlib
import re

import pynvml
import pytest

import inferhost.host
from inferhost.host.gpu.nvml import MEANINGS, Nvml, NvmlError
from tests.faults.codes import CODES
from tests.unit.host.fake_host import FakeHost, p4_plan, with_gpu
from tests.unit.host.simulated import P4, P4_UUID, UUID

SOURCES = sorted(pathlib.Path(inferhost.host.__file__).parent.rglob("*.py"))
CALL = re.compile(r'"(nvml[A-Z]\w+)"')
DEPRECATED, FUNCTION_NOT_FOUND, UNKNOWN = 26, 13, 999
POWERMIZER = ("nvmlDeviceGetPowerMizerMode_v1", "nvmlDeviceSetPowerMizerMode_v1")
ALWAYS_SUCCESS = ("nvmlDeviceSetPowerManagementLimit_v2", "nvmlDeviceSetClockOffsets", "nvmlDeviceGetClockOffsets")


def called() -> set[str]:
    """Every function of the binding that a source of ours names as one to call."""
    return {name for path in SOURCES for name in CALL.findall(path.read_text())}


@pytest.fixture
def failing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library of which every call fails."""
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", lambda _: lambda *_arguments: UNKNOWN)


@pytest.mark.usefixtures("failing_library")
def test_the_unchecked_calls_say_success_while_nvml_fails_and_the_checked_one_does_not():
    assert pynvml.nvmlDeviceSetPowerManagementLimit_v2(None, 0, 450000) == pynvml.NVML_SUCCESS
    for function in ALWAYS_SUCCESS[1:]:
        getattr(pynvml, function)(None, pynvml.c_nvmlClockOffset_t())  # does not raise
    with pytest.raises(pynvml.NVMLError):
        pynvml.nvmlDeviceSetPowerManagementLimit(None, 450000)


def test_no_source_names_a_call_that_reports_success_whatever_happens():
    assert not called() & {*ALWAYS_SUCCESS, *POWERMIZER}
    assert "nvmlDeviceSetPowerManagementLimit" in called()


@pytest.mark.usefixtures("failing_library")
@pytest.mark.parametrize("function", sorted(name for name in called() if name.startswith("nvmlDeviceSet")))
def test_every_setter_of_ours_raises_where_nvml_fails(function: str):
    several = {"nvmlDeviceSetGpuLockedClocks", "nvmlDeviceSetMemoryLockedClocks", "nvmlDeviceSetApplicationsClocks"}
    with pytest.raises(NvmlError, match=f"{function}: Unknown"):
        Nvml(lambda _: None).call(function, None, *(1, 1) if function in several else (1,))


def test_every_name_that_a_source_of_ours_calls_is_in_the_binding_that_is_shipped():
    """One that is not would end as an AttributeError, which no code stands for."""
    assert len(called()) > 40
    assert [name for name in sorted(called()) if not hasattr(pynvml, name)] == []


def test_code_26_has_no_text_in_the_binding_and_a_name_and_verdict_here(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    def no_library(_code: int) -> str:
        raise pynvml.NVMLError(UNKNOWN)

    with monkeypatch.context() as alone:  # the binding's own table, without what a library was asked before
        alone.setattr(pynvml, "nvmlErrorString", no_library)
        alone.setattr(pynvml.NVMLError, "_errcode_to_string", {pynvml.NVML_ERROR_UNKNOWN: "Unknown Error"})
        assert str(pynvml.NVMLError(DEPRECATED)) == "NVML Error with code 26"
    host.sim("init", P4)
    host.sim("set", "persistence", 1)
    host.plan = p4_plan(application_clocks_mhz=(3003, 999))
    assert host.run("install").code == 0
    host.sim("fail", "nvmlDeviceSetApplicationsClocks", DEPRECATED)
    answer = host.run("apply")
    assert (answer.code, answer.verdict(f"{P4_UUID}.application_clocks_mhz")) == (0, ("unsupported", "no_interface"))
    assert "nvmlDeviceSetApplicationsClocks: Deprecated (NVML error 26)" in answer.evidence("application_clocks_mhz")


def test_every_code_of_the_binding_has_a_verdict_even_one_without_a_name():
    for code in (*CODES, 12345):
        error = NvmlError("nvmlAny", code)
        assert error.verdict in ("refused", "unsupported", "pending")
        assert f"(NVML error {code})" in error.evidence
    assert set(MEANINGS) <= set(CODES)


def test_a_symbol_that_the_library_lacks_is_a_setting_that_the_card_does_not_have(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
):
    """As with an old driver, or one that dropped what NVML 13 calls deprecated."""
    real = pynvml._nvmlGetFunctionPointer

    def lacks(name: str):
        if name in ("nvmlDeviceSetGpuLockedClocks", "nvmlDeviceGetTemperatureV"):
            raise pynvml.NVMLError(FUNCTION_NOT_FOUND)
        return real(name)

    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", lacks)
    host.plan = with_gpu(graphics_clock_lock_mhz=(2100, 2100))
    assert host.run("install").code == 0
    answer = host.run("apply", "--section", "gpu")
    assert (answer.code, answer.verdict("graphics_clock_lock_mhz")) == (0, ("unsupported", "no_interface"))
    assert answer.verdict(f"{UUID}.power_limit_w") == ("held", "none")
    sampled = host.run("sample", "--seconds", "0.4")
    assert sampled.document["facts"]["gpus"][0]["samples"][0]["temperature_c"] > 0  # by the older name


def test_the_binding_itself_says_function_not_found_for_a_symbol_that_is_not_there(host: FakeHost):
    host.sim("load", "off")
    pynvml.nvmlInit()
    try:
        with pytest.raises(pynvml.NVMLError) as raised:
            pynvml._nvmlGetFunctionPointer("nvmlDeviceNobodyExports")
    finally:
        pynvml.nvmlShutdown()
    assert raised.value.value == FUNCTION_NOT_FOUND
