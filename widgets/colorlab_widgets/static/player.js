// The steps of a run: buttons, a slider, and the clean picture predicted at each step. Scrubbing shows what is here at
// once, without the kernel.
function component(view) {
  const send = (event) => () => view.send(event);
  const play = iconButton("play", "", () => view.send(view.get("is_running") ? "pause" : "play"), h("span"));
  const step = iconButton("step", "Take one step (key: .)", send("take_step"));
  const rewind = iconButton("rewind", "Forget the steps after the one shown; taken again they give the same picture", send("rewind"));
  const branch = iconButton("branch", "Branch here: take the steps from the one shown on with what is given now; this run stays", send("branch"), h("span", {}, "Branch here"));
  const slider = h("input", { type: "range", min: "0", step: "1", "aria-label": "Step shown", title: "Step shown: the clean picture the model had in mind there" });
  const place = h("output", { class: "colorlab-place" });
  const large = h("img", { class: "colorlab-frame", alt: "Clean picture predicted at the step shown", hidden: true });
  const strip = h("div", { class: "colorlab-strip", role: "listbox", "aria-label": "Clean picture predicted at each step" });
  const root = h(
    "div",
    { class: "colorlab-player" },
    large,
    h("div", { class: "colorlab-row" }, rewind, play, step, branch, slider, place),
    strip,
  );
  const look = seldom((at) => view.send("look", { step: at }), 60);
  // What the user asked for last; the kernel's answers may come later than the next wish.
  let shown = null;

  const framesOf = () => view.get("frames");
  const show = () => {
    const [taken, number] = [view.get("steps_taken"), view.get("num_steps")];
    const last = taken >= number && number > 0 ? number : taken - 1;
    const at = shown ?? view.get("step");
    slider.max = Math.max(last, 0);
    slider.disabled = last < 0;
    slider.value = Math.max(at, 0);
    slider.setAttribute("aria-valuetext", words(at, number));
    // A run that begins on the way says so: another number of steps is set than it has.
    const whole = view.get("num_steps_set");
    place.textContent = at >= number && whole > number ? `finished, ${number} of ${whole} steps` : words(at, number);
    place.title = view.get("shortened");
    for (const card of strip.children) card.setAttribute("aria-selected", String(Number(card.dataset.step) === at));
    if (view.get("is_frame_shown")) showBytes(large, framesOf()[Math.min(at, framesOf().length - 1)]);
    // At the end nothing is left to be taken in another way.
    branch.disabled = taken === 0 || at >= number;
    rewind.disabled = taken === 0 || at >= taken - 1;
    root.dataset.step = at;
  };
  const words = (at, number) => (at < 0 ? "no step yet" : at >= number ? `finished, ${number} steps` : `step ${at} of ${number}`);
  const scrub = (at) => {
    shown = at;
    show();
    look(at);
    const card = [...strip.children].find((other) => Number(other.dataset.step) === at);
    card?.scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  slider.addEventListener("input", () => scrub(Number(slider.value)));
  for (const control of [slider, strip, root]) control.addEventListener("keydown", (event) => event.stopPropagation());
  root.addEventListener("keydown", (event) => {
    if (event.key === ".") view.send("take_step");
    if (event.key === " " && event.target.tagName !== "BUTTON") view.send(view.get("is_running") ? "pause" : "play");
  });
  strip.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (move) scrub(Math.min(Math.max((shown ?? view.get("step")) + move, 0), Number(slider.max)));
  });

  view.follow(["frames"], () => {
    for (const image of strip.querySelectorAll("img")) showBytes(image, null);
    const number = view.get("num_steps");
    strip.replaceChildren(
      ...framesOf().map((bytes, at) => {
        const image = h("img", { alt: words(at, number) });
        showBytes(image, bytes);
        return h("button", { type: "button", class: "colorlab-thumbnail", role: "option", "data-step": at, title: words(at, number), tabindex: "-1", onclick: () => scrub(at) }, image, h("span", {}, at >= number ? "end" : String(at)));
      }),
    );
    strip.tabIndex = 0;
    show();
  });
  view.follow(["step"], () => {
    // Until the kernel has come to what was asked for, its answers are older than the wish.
    if (shown === view.get("step") || view.get("is_running")) shown = null;
    show();
  });
  view.follow(["num_steps", "steps_taken", "num_steps_set", "shortened"], () => {
    shown = null;
    show();
  });
  view.follow(["is_running", "is_changed", "steps_taken", "num_steps"], () => {
    const [isRunning, isChanged, taken, number] = ["is_running", "is_changed", "steps_taken", "num_steps"].map(view.get);
    const isOver = number > 0 && taken >= number;
    const label = isRunning ? "Pause" : isOver ? "Run again" : isChanged && taken > 0 ? "Go on as a branch" : "Play";
    play.querySelector("path").setAttribute("d", ICONS[isRunning ? "pause" : "play"]);
    play.querySelector("span").textContent = label;
    play.title = isRunning ? "Pause within one step" : "Take the remaining steps; what was changed since makes a branch";
    play.setAttribute("aria-label", label);
    play.disabled = isOver && !isChanged && !isRunning;
    step.disabled = isOver;
  });
  return root;
}
