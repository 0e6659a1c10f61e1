from __future__ import annotations

import dataclasses

import pytest

import convofconv as coc
from convofconv.config import resolve_config


def test_the_default_is_the_posters_best_setting():
    config = coc.Config()
    assert config == coc.PRESETS["poster"]
    chosen = (config.grid_side, config.extra_width, config.depth, config.skip, config.dilated, config.share)
    assert chosen == (2, 2, 1, True, True, "input")


def test_presets_follow_the_released_settings():
    released, lightweight = coc.PRESETS["released"], coc.PRESETS["lightweight"]
    assert (released.grid_norm, released.kernel_norm, released.standardize_super_kernel) == (True, True, True)
    assert lightweight == released.replace(standardize_super_kernel=False)


def test_a_config_is_frozen_and_hashable():
    config = coc.Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.grid_side = 3
    assert {config: 1}[coc.Config()] == 1
    with pytest.raises(TypeError):
        coc.PRESETS["mine"] = config


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"grid_side": 0}, coc.ConfigError, "grid_side must be at least 1, got 0"),
        ({"extra_width": -1}, coc.ConfigError, "extra_width must be at least 0, got -1"),
        ({"depth": 0}, coc.ConfigError, "depth must be at least 1, got 0"),
        ({"depth": 1.0}, coc.ArgumentTypeError, r"depth must be an int, got 1\.0 \(float\)"),
        ({"grid_side": True}, coc.ArgumentTypeError, "grid_side must be an int, got True"),
        ({"skip": 1}, coc.ArgumentTypeError, "skip must be True or False, got 1"),
        ({"share": "ci"}, coc.ConfigError, "share must be one of input, output, both, none; got 'ci'"),
        ({"init": "zeros"}, coc.ConfigError, "init must be one of identity, kaiming, solve; got 'zeros'"),
        ({"grouping": "near"}, coc.ConfigError, "grouping must be one of consecutive, random, similar; got 'near'"),
        ({"init": "solve", "grid_norm": True}, coc.ConfigError, 'use init="identity"'),
        ({"init": "solve", "share": "none"}, coc.ConfigError, 'use init="identity"'),
        ({"skip": False, "grid_norm": True}, coc.ConfigError, 'set init="kaiming" or skip=True'),
        ({"skip": False, "standardize_super_kernel": True}, coc.ConfigError, 'set init="kaiming" or skip=True'),
    ],
)
def test_impossible_values_are_refused_with_the_rule_and_the_value(values, error, message):
    with pytest.raises(error, match=message):
        coc.Config(**values)
    with pytest.raises(error, match=message):
        coc.Config().replace(**values)


@pytest.mark.parametrize("make", [coc.Config, coc.Config().replace], ids=["new", "replaced"])
@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("gridside", r"did you mean grid_side\?"),
        ("sa", "the paper's sa is grid_side here"),
        ("lr", r"its fields are grid_side, extra_width, depth, skip, dilated, \.\.\. \(7 more\)"),
    ],
)
def test_unknown_fields_are_named_with_what_was_meant(make, field, hint):
    with pytest.raises(coc.ConfigError, match=f"^Config has no field {field}; {hint}$"):
        make(**{field: 3})


def test_resolving_names_the_presets():
    assert resolve_config("released") is coc.PRESETS["released"]
    with pytest.raises(coc.ConfigError, match="no preset is called 'best'; there are poster, released, lightweight"):
        resolve_config("best")
    with pytest.raises(coc.ArgumentTypeError, match="got int"):
        resolve_config(3)


def test_every_error_belongs_to_one_hierarchy():
    for name in ("ArgumentTypeError", "ConfigError", "ShapeError", "SurgeryError", "VerificationError"):
        assert issubclass(getattr(coc, name), coc.ConvOfConvError)
    assert issubclass(coc.ArgumentTypeError, TypeError)
    assert issubclass(coc.ConfigError, ValueError)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("reparametrize", r"; did you mean reparameterize\?"),
        ("fold", "; that is reparameterize here"),
        ("unheard", ""),
    ],
)
def test_misspelt_public_names_are_suggested(name, hint):
    with pytest.raises(AttributeError, match=f"^module 'convofconv' has no attribute '{name}'{hint}$"):
        getattr(coc, name)


def test_what_a_name_is_called_elsewhere_exists_here():
    elsewhere = "fold fuse merge deploy switch_to_deploy unconvert revert restore check report"
    for name in elsewhere.split():
        with pytest.raises(AttributeError, match="; that is ") as error:
            getattr(coc, name)
        assert str(error.value).removesuffix(" here").rpartition(" ")[2] in coc.__all__
