// The hand of nanoenvisions/browser.py in a MiniWoB++ page; Playwright puts it there before the page's
// own scripts. Only Browser calls it. What it throws is shown to the user as the reason why an action failed.

window.nano = {
  start(seed, hide) {                         // the same seed always gives the same page
    core.EPISODE_MAX_TIME = 1e9;              // ms; by default an episode ends after 10 s
    if (window.jQuery) jQuery.fx.off = true;  // no waiting for animations
    Math.seedrandom(seed);
    core.startEpisodeReal();
    core.startEpisode = () => {};             // the first reward stays: no second episode on this page
    core.getDOMInfo();                        // numbers the elements (data-wob_ref): published programs use that
    // The arrows of a narrow number field lie under its middle, where the mouse clicks.
    document.head.insertAdjacentHTML("beforeend", "<style>input::-webkit-inner-spin-button { display: none }</style>");
    if (hide) document.getElementById("query").textContent = "";  // else an XPath could read the answer there
    // From here on nothing that is typed becomes a script, neither by the browser nor by jQuery's eval.
    if (window.jQuery) jQuery.globalEval = () => {};
    document.head.insertAdjacentHTML("beforeend", "<meta http-equiv='Content-Security-Policy' " +
      "content=\"script-src 'unsafe-eval'; base-uri 'none'\">");
    this.started = true;
  },
  state() { return {here: !!this.started, done: !!window.WOB_DONE_GLOBAL, reward: window.WOB_RAW_REWARD_GLOBAL}; },
  find(xpath) {                               // how many elements it selects; they stay in `found`
    let nodes, node;
    this.found = [];
    try {
      nodes = document.evaluate(xpath, document, null, XPathResult.ORDERED_NODE_ITERATOR_TYPE, null);
    } catch (error) { throw "not an XPath that selects elements"; }
    while (node = nodes.iterateNext()) this.found.push(node.nodeType == Node.ELEMENT_NODE ? node : node.parentElement);
    this.found = this.found.filter(Boolean);  // the document itself is in no element
    if (!this.found.length) throw "no such element on the page";
    return this.found.length;
  },
  place(index) {                              // where the mouse must go, in pixels; null if it cannot
    const element = this.found[index];
    element.scrollIntoView({block: "center", inline: "center"});
    const box = element.getClientRects()[0];  // of a link that runs over two lines: the part on the first
    return box && box.width && box.height ? [box.x + box.width / 2, box.y + box.height / 2] : null;
  },
  choose(index) {                             // an option of a list; in a closed list the mouse cannot reach it
    const option = this.found[index], list = option.tagName == "OPTION" && option.closest("select");
    if (!list) return false;
    option.selected = true;
    for (const kind of ["input", "change"]) list.dispatchEvent(new Event(kind, {bubbles: true}));
    return true;
  },
  observe() {                                 // the task in words, and the HTML without what no program needs
    const SKIP = "script, style, canvas, #query, #reward-display, #sync-task-cover, " +
                 ".ui-icon, .ui-button-icon-space, .ui-resizable-handle";
    const KEEP = /^(id|title|type|value|for|placeholder|data-(?!wob|tampered).*)$/;
    const KEEP_DRAWN = /^(?!style|class|data-|text-anchor|alignment-baseline)/;
    const PLAIN = /^(body|div|span|p|b|form|table|tbody|ul)$/;  // not written where they say nothing
    const INLINE = /^(span|b|a|td|th|option|input)$/;
    const write = node => {
      if (node.nodeType == Node.TEXT_NODE) return node.data.replace(/\s*\n\s*/g, "\n").replace(/[^\S\n]+/g, " ");
      if (node.nodeType != Node.ELEMENT_NODE || node.matches(SKIP)) return "";
      const tag = node.tagName.toLowerCase(), drawn = node instanceof SVGElement;
      const inside = [...node.childNodes].map(write).join(""), text = inside.trim();
      const said = [...node.attributes].filter(({name, value}) => drawn ? KEEP_DRAWN.test(name) :
        KEEP.test(name) && value && !/^(id=(wrap|area|form)|type=(text|button))$/.test(name + "=" + value));
      // A class is worth its tokens only where nothing else tells the element from others.
      const named = drawn || said.length || (text && /^ui-/.test(node.className));
      if (node.className && !named) said.push({name: "class", value: node.className});
      const end = INLINE.test(tag) ? "" : "\n";
      if (tag == "br") return end;
      if (PLAIN.test(tag) && !said.length) return text ? end + inside + end : "";
      const head = `<${tag}${said.map(({name, value}) => ` ${name}="${value}"`).join("")}>`;
      return tag == "input" ? head : head + text + `</${tag}>` + end;
    };
    const asked = core.getUtterance();
    return (asked.utterance || asked) + "\n" + write(document.body).replace(/\s*\n\s*/g, "\n").trim();
  },
};
