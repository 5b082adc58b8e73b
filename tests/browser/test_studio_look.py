"""What the Studio looks like in both themes at 1280 px: nothing cut off or faint, every control told and reachable."""

import os
from collections import Counter
from pathlib import Path

import pytest
from studio_page import open_studio

SETUP = """
rows, columns = np.mgrid[:128, :128]
picture = (90 + rows // 2).astype(np.uint8)
picture[(rows - 60) ** 2 + (columns - 64) ** 2 < 1000] = 150
colorizer = colorlab.load("mini/ctrlcolor")
studio = Studio(colorizer, colorlab.Conditioning(gray=picture, prompt="a red ball and a blue wall"))
studio.model.settings = studio.model.settings.replace(num_inference_steps=4)
"""
# Contrast that text needs, by the Web Content Accessibility Guidelines 2.2, 1.4.3 (AA).
LEAST_CONTRAST = 4.5
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}

# What is wrong with what is seen of the Studio, as a list of sentences.
INSPECT = """(leastContrast) => {
    const root = document.querySelector('.colorlab-whole');
    const found = [];
    const isSeen = element => element.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})
        && element.getBoundingClientRect().width > 1;
    const name = element => `${element.tagName.toLowerCase()}.${[...element.classList].join('.')} ` +
        `"${(element.innerText || element.value || element.ariaLabel || '').slice(0, 40)}"`;
    const numbers = color => color.match(/[\\d.]+/g).map(Number);
    const over = (above, below) => {
        const alpha = above[3] ?? 1;
        return [0, 1, 2].map(index => above[index] * alpha + below[index] * (1 - alpha));
    };
    const ground = element => {
        const sheets = [];
        for (let each = element; each; each = each.parentElement) {
            const color = numbers(getComputedStyle(each).backgroundColor);
            sheets.push(color);
            if ((color[3] ?? 1) === 1) break;
        }
        return sheets.reverse().reduce((below, above) => over(above, below), [255, 255, 255]);
    };
    const luminance = color => {
        const [red, green, blue] = color.map(part => part / 255)
            .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    // Text by text: its contrast, and whether it is cut off.
    const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    const seen = new Set();
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || seen.has(element) || !isSeen(element)) continue;
        seen.add(element);
        const isDisabled = element.closest(':disabled, [aria-disabled=true]');
        if (!isDisabled && !element.closest('svg, option')) {
            const below = ground(element);
            const [one, other] = [luminance(over(numbers(getComputedStyle(element).color), below)), luminance(below)];
            const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
            if (contrast < leastContrast) found.push(`contrast ${contrast.toFixed(1)}: ${name(element)}`);
        }
        // What ends in three dots says the whole in a tooltip.
        const box = element.closest('button, .widget-label, .lm-TabBar-tab, .colorlab-caption') ?? element;
        const isWhole = box.closest('[title]') && getComputedStyle(box).textOverflow === 'ellipsis';
        if (!isWhole && getComputedStyle(box).overflowX !== 'visible' && box.scrollWidth > box.clientWidth + 1)
            found.push(`cut off: ${name(box)}`);
    }
    const room = root.getBoundingClientRect();
    for (const element of root.querySelectorAll('*')) {
        const box = element.getBoundingClientRect();
        const isScrolled = element.parentElement.closest('.colorlab-strip, .colorlab-tree');
        if (!isScrolled && isSeen(element) && box.right > room.right + 1) found.push(`too wide: ${name(element)}`);
    }
    // ipywidgets gives its tooltip to the words before a control, where there are some. The stages say in words what
    // they are for, each thumbnail which step it is, and a tab has its name.
    const words = element => element.closest('.jupyter-widgets:has(> label)')?.querySelector(':scope > label');
    const isTold = element => element.closest('[title]:not([title=""])')
        || words(element)?.matches('[title]:not([title=""]), :has([title]:not([title=""]))')
        || element.matches('.colorlab-pointer, .colorlab-strip, canvas, [type=file]');
    for (const element of root.querySelectorAll('button, input, select, textarea, [role=slider], [tabindex="0"]'))
        if (isSeen(element) && !element.matches('[role=tab], .lm-TabBar-tab') && !isTold(element))
            found.push(`no tooltip: ${name(element)}`);
    return found;
}"""
# Every control that Tab has to come to; of a group that arrow keys move through, the one that has its place there. For
# a canvas stands the sheet that lies over it. Told by name, as a redraw replaces elements.
NAMED = """const named = element => `${element.tagName.toLowerCase()}.${[...element.classList].join('.')} ` +
    `"${element.innerText || element.title || element.ariaLabel || ''}"`;
const root = document.querySelector('.colorlab-whole');"""
CONTROLS = f"""() => {{
    {NAMED}
    const isSeen = element => element.checkVisibility({{checkOpacity: true, checkVisibilityCSS: true}})
        && element.getBoundingClientRect().width > 1;
    const controls = [...root.querySelectorAll('button, input, select, textarea, [role=slider], [tabindex="0"]')]
        .filter(element => isSeen(element) && !element.disabled && !element.matches('canvas')
            && !element.closest('[role=listbox] [tabindex="-1"]'));
    controls[0].focus();
    return controls.map(named);
}}"""
FOCUSED = f"""() => {{
    {NAMED}
    const element = document.activeElement;
    if (!root.contains(element)) return null;
    const looks = () => ['outlineStyle', 'outlineWidth', 'boxShadow', 'borderColor', 'backgroundColor']
        .map(name => getComputedStyle(element)[name] + getComputedStyle(element.parentElement)[name]).join();
    const focused = looks();
    element.blur();
    const other = looks();
    element.focus();
    return [named(element), focused !== other];
}}"""


@pytest.fixture
def studio(lab, open_notebook):
    """Return a Studio with a finished run and a selected pixel."""
    opened = open_studio(lab, open_notebook, "look.ipynb", SETUP)
    opened.page.get_by_role("button", name="Colorize").click()
    opened.wait_until(lambda: opened.value("model.run is not None and model.run.is_finished"), "a run")
    opened.kernel("model.pixel = (60, 60)")
    opened.wait_idle()
    return opened


@pytest.mark.timeout(900)
def test_every_tab_is_readable_in_both_themes(studio, tmp_path):
    folder = Path(os.environ.get("COLORLAB_SCREENSHOTS", tmp_path))
    given = studio.value("[model.settings.to_dict(), repr(model.conditioning)]")
    problems = []
    for theme, title in THEMES.items():
        studio.page.evaluate(f"window.jupyterapp.commands.execute('apputils:change-theme', {{theme: '{title}'}})")
        studio.page.wait_for_function(f"document.body.dataset.jpThemeLight === '{str(theme == 'light').lower()}'")
        for tab in ("Paint", *studio.value("list(studio.views)")):
            studio.open_tab(tab)
            studio.wait_idle()
            studio.page.wait_for_timeout(500)
            studio.page.evaluate("document.querySelector('.colorlab-whole').scrollIntoView()")
            studio.page.screenshot(path=folder / f"{theme}-{tab.replace(' ', '-').lower()}.png")
            problems += [f"{theme}, {tab}: {each}" for each in studio.page.evaluate(INSPECT, LEAST_CONTRAST)]
    told = sorted(set(problems))
    assert not told, "\n".join(told)
    assert studio.value("[model.settings.to_dict(), repr(model.conditioning)]") == given, "looking changes nothing"


@pytest.mark.timeout(900)
def test_the_picture_is_whole_beside_the_file_browser(studio):
    page = studio.page
    room = page.locator(".colorlab-whole").bounding_box()["width"]
    page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
    page.wait_for_timeout(1000)
    assert page.locator(".colorlab-whole").bounding_box()["width"] < room - 150, "the file browser is open"
    cut = """() => {
        const around = [];
        let each = document.querySelector('.colorlab-whole .colorlab-pointer').parentElement;
        for (; !each.matches('.colorlab-whole'); each = each.parentElement)
            if (each.scrollWidth > each.clientWidth) around.push([each.className, each.scrollWidth, each.clientWidth]);
        return around;
    }"""
    assert page.evaluate(cut) == []
    page.locator(".widget-toggle-button", has_text="Look").click()
    studio.drag([(100, 40), (100, 40)])
    studio.wait_until(lambda: studio.value("model.pixel") == [100, 40], "the pixel that was clicked is marked")
    assert studio.notebook.errors == []


@pytest.mark.timeout(900)
def test_every_control_is_reached_by_tab_and_shows_it(studio):
    missed, unseen = [], []
    for tab in ("Paint", *studio.value("list(studio.views)")):
        studio.open_tab(tab)
        # What a tab asks for as it opens may come meanwhile and replace controls: a walk that missed some is repeated.
        for _ in range(3):
            studio.page.wait_for_timeout(500)
            studio.wait_idle()
            missing, faint = walk(studio.page)
            if not missing + faint:
                break
        missed += [f"{tab}: {name}" for name in missing]
        unseen += [f"{tab}: {name}" for name in faint]
    assert not missed + unseen, "\n".join(["not reached:", *missed, "focus not seen:", *unseen])


def walk(page):
    """Go through the Studio by Tab; return the controls that were not reached, and those that show no focus."""
    controls, reached = page.evaluate(CONTROLS), []
    # A trap for the focus ends here, too.
    while (focused := page.evaluate(FOCUSED)) is not None and len(reached) < 2 * len(controls):
        reached.append(focused)
        page.keyboard.press("Tab")
    missing = Counter(controls) - Counter(name for name, _ in reached)
    return list(missing.elements()), [name for name, is_marked in reached if name in controls and not is_marked]
