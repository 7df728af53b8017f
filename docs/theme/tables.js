// Material lets a wide table scroll; so that it does by keyboard, too, Tab has to lead there.
const reached = () => document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])").forEach(table => (table.tabIndex = 0))
new MutationObserver(reached).observe(document, { childList: true, subtree: true })
reached()
