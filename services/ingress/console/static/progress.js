// <sheaf-progress src="https://sheaf.example/s/TOKEN/progress"> shows the progress of a share link on any page.
// It fires sheaf:done, sheaf:failed and sheaf:cancelled. Parts to style: bar, text, link.
const css = new CSSStyleSheet();
css.replaceSync(':host{display:inline-flex;gap:.5em;align-items:center}progress{accent-color:currentColor}');
const ends = { succeeded: 'done', failed: 'failed', cancelled: 'cancelled', expired: 'failed', gone: 'failed' };
customElements.define('sheaf-progress', class extends HTMLElement {
  connectedCallback() {
    const root = this.shadowRoot ?? this.attachShadow({ mode: 'open' });
    root.adoptedStyleSheets = [css];
    const make = (tag, part) => { const e = document.createElement(tag); e.part = part; return e; };
    this.bar = make('progress', 'bar'); this.text = make('span', 'text'); this.link = make('a', 'link');
    this.bar.max = 100; this.text.role = 'status'; this.link.hidden = true;
    root.replaceChildren(this.bar, this.text, this.link);
    this.wait = 1000;
    this.ask();
  }
  disconnectedCallback() { clearTimeout(this.timer); }
  async ask() {
    const src = new URL(this.getAttribute('src'), document.baseURI);
    try {
      const answer = await fetch(src, { credentials: 'omit' });
      if (answer.status === 404) return this.end({ state: 'gone', text: '' }, src);
      if (answer.ok) {
        const p = await answer.json();
        if (p.percent) this.bar.value = p.percent;
        this.bar.ariaLabel = p.text;
        if (this.text.textContent !== p.text) this.text.textContent = p.text;
        if (ends[p.state]) return this.end(p, src);
      }
    } catch { /* asks again */ }
    this.wait = Math.min(5000, this.wait * 1.3);
    if (this.isConnected) this.timer = setTimeout(() => this.ask(), this.wait);
  }
  end(p, src) {
    if (p.file) { this.link.href = new URL(p.file, src); this.link.textContent = this.getAttribute('label') ?? '⬇'; this.link.hidden = false; }
    this.bar.hidden = true;
    this.dispatchEvent(new CustomEvent(`sheaf:${ends[p.state]}`, { bubbles: true, detail: p }));
  }
});
