"""The contract suite asserts in a module of its own: let pytest explain those assertions too."""

import pytest

pytest.register_assert_rewrite("storage.testing.contract")
