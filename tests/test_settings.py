from __future__ import annotations

import pytest

from searchpipe.config import Config, load_config
from searchpipe.errors import ConfigError


def write(tmp_path, text):
    path = tmp_path / "searchpipe.toml"
    path.write_text(text)
    return path


def test_the_defaults_are_a_configuration():
    assert load_config() == Config() == load_config({})


def test_values_are_read_where_they_belong(tmp_path):
    path = write(
        tmp_path,
        "[budget]\ndefault_ms = 30\n"
        "[[diversify.quotas]]\ncolumn = 'brand'\nlimit = 2\n"
        "[recall]\nweights = {dense = 2.0}\n",
    )
    config = load_config(path)
    assert config.budget.default_ms == 30
    assert config.diversify.quotas[0].limit == 2
    assert config.recall.weights == {"dense": 2.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[recal]\n", "Unknown key 'recal'. Did you mean 'recall'"),
        ("[recall]\ndepht = 3\n", "Unknown key 'recall.depht'. Did you mean 'depth'"),
        (
            "[[diversify.quotas]]\ncolum='b'\nlimit=1\n",
            r"Unknown key 'diversify.quotas\[0\].colum'. Did you mean 'column'",
        ),
        ("[recall]\nzzzzzz = 3\n", "Unknown key 'recall.zzzzzz'. Valid keys: "),
        ("[recall]\ndepth = 0\n", "recall.depth: .*>= 1"),
        ("[recall]\ndepth = 'many'\n", "recall.depth: "),
        ("[diversify]\nmethod = 'best'\n", "diversify.method: "),
        ("[budget]\ndefault_ms = -1.0\n", "budget.default_ms: "),
        ("[budget\n", "not valid TOML"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"Cannot read .*nowhere.toml"):
        load_config(tmp_path / "nowhere.toml")


def test_stages_can_be_left_out_but_not_made_up():
    assert Config().with_stages(["recall", "page"]).pipeline.stages == ("recall", "page")
    with pytest.raises(ConfigError, match=r"pipeline.stages"):
        Config().with_stages(["recal", "page"])
