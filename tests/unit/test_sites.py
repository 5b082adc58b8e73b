"""Sites: every attention layer and block by its path, with the grid that the network really has there."""

import pytest
import torch
from tiny import tiny_unet

from colorlab.errors import RangeError
from colorlab.networks.libraries import ControlNetModel
from colorlab.networks.sites import SITE_KINDS, find_site, find_sites, select_sites

LATENTS = (4, 12, 20)


def real_shapes(network, sites, call):
    """Run the network and return (shape of the queries or features, kind of the context) by path."""
    shapes, handles = {}, []
    for site in sites:
        module = network.get_submodule(site.path)
        watched = module.to_q if site.is_attention else module

        def keep(module, args, output, path=site.path):
            output = output[0] if isinstance(output, tuple) else output
            shapes[path] = tuple(output.shape)

        handles.append(watched.register_forward_hook(keep))
    with torch.no_grad():
        call()
    for handle in handles:
        handle.remove()
    return shapes


def check_against_the_network(network, sites, call):
    shapes = real_shapes(network, sites, call)
    assert list(shapes) == [site.path for site in sites], "not in the order of computation"
    for site in sites:
        if site.is_attention:
            assert shapes[site.path][1:] == (site.num_positions, site.channels)
            assert network.get_submodule(site.path).heads == site.heads
        else:
            assert shapes[site.path][1:] == (site.channels, *site.grid)


@pytest.mark.parametrize("size", [(8, 8), (12, 20), (7, 5)])
def test_grids_channels_and_order_are_those_of_the_network(size):
    unet = tiny_unet(4)
    sites = find_sites(unet, (4, *size))
    check_against_the_network(
        unet, sites, lambda: unet(torch.randn(1, 4, *size), 3, encoder_hidden_states=torch.randn(1, 5, 16))
    )
    attentions = [name for name, module in unet.named_modules() if hasattr(module, "to_q")]
    assert {site.path for site in sites if site.is_attention} == set(attentions)
    blocks = {f"down_blocks.{index}" for index in (0, 1)} | {"mid_block"} | {f"up_blocks.{index}" for index in (0, 1)}
    assert {site.path for site in sites if site.kind == "block"} == blocks


def test_a_control_network_has_the_sites_of_its_way_down():
    control = ControlNetModel.from_unet(tiny_unet(4), conditioning_embedding_out_channels=(8, 8))
    sites = find_sites(control, LATENTS)
    assert not any(site.path.startswith("up_blocks") for site in sites)
    check_against_the_network(
        control,
        sites,
        lambda: control(
            torch.randn(1, 4, 12, 20),
            3,
            encoder_hidden_states=torch.randn(1, 5, 16),
            controlnet_cond=torch.randn(1, 3, 24, 40),
        ),
    )


def test_filters_by_glob_kind_and_resolution():
    unet = tiny_unet(4)
    sites = find_sites(unet, LATENTS)
    assert {site.kind for site in sites} == set(SITE_KINDS)
    up = find_sites(unet, LATENTS, glob="up_blocks.*", kind="attn2")
    assert up
    assert all(site.path.startswith("up_blocks.") and site.path.endswith("attn2") for site in up)
    assert select_sites(sites, kind=("attn1", "attn2"), resolution=(6, 10)) == tuple(
        site for site in sites if site.is_attention and site.path.startswith("mid_block")
    )
    middle = find_site(unet, LATENTS, "mid_block.attentions.0.transformer_blocks.0.attn2")
    assert (middle.kind, middle.grid, middle.heads, middle.channels) == ("attn2", (6, 10), 2, 16)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"glob": "mid_block.attentions.0.transformer_blocks.0.attn3"}, r"near it are 'mid_block\.attentions\.0"),
        ({"glob": "*.attn3"}, "near it are '.*attn[12]'"),
        ({"glob": "zzz"}, "there are [0-9]+, for instance 'down_blocks.0.resnets.0'"),
        ({"kind": "attn3"}, "kind is 'attn3', but one of attn1, attn2"),
        ({"glob": "*.attn1", "kind": "attn2"}, "there are: attn1"),
        ({"kind": "attn1", "resolution": (3, 3)}, "there are: 12x20, 6x10"),
    ],
)
def test_a_filter_that_leaves_nothing_names_what_is_near(filters, message):
    with pytest.raises(RangeError, match=message):
        find_sites(tiny_unet(4), LATENTS, **filters)


def test_what_has_no_sites_says_so():
    with pytest.raises(RangeError, match="Linear has no down_blocks"):
        find_sites(torch.nn.Linear(2, 2), LATENTS)
    with pytest.raises(RangeError, match="There is no site 'mid_blok'; near it are 'mid_block'"):
        find_site(tiny_unet(4), LATENTS, "mid_blok")
    with pytest.raises(RangeError, match="latent_shape"):
        find_sites(tiny_unet(4), (4,))
