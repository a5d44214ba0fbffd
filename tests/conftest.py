"""Contracts are asserted in modules of their own; pytest explains their failures as it does a test's."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "tests.contracts.cluster_contract", "tests.contracts.metrics_contract", "tests.contracts.recorder_contract"
)
