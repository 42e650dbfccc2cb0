// What is wrong with the page as it is now. WCAG 2.2: 1.4.3 contrast, 1.4.10 reflow, 2.4.7 focus visible.

const isShown = (element) => element.checkVisibility() && element.getBoundingClientRect().width > 1;

function tooWide() {
  const overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const sticksOut = (element) => element.getBoundingClientRect().right > document.documentElement.clientWidth + 1;
  const culprits = [...document.body.querySelectorAll("*")].filter((element) => isShown(element) && sticksOut(element));
  return overflow > 0 || culprits.length ? [`${overflow} px too wide`, ...culprits.map(({ outerHTML }) => outerHTML.slice(0, 80))] : [];
}

function channels(colour) {
  const [red, green, blue, alpha = 1] = colour.match(/[\d.]+/g).map(Number);
  return { rgb: [red, green, blue], alpha };
}

function luminance(rgb) {
  const [red, green, blue] = rgb.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function groundOf(element) {
  for (let at = element; at; at = at.parentElement) {
    const { rgb, alpha } = channels(getComputedStyle(at).backgroundColor);
    if (alpha === 1) return rgb;
    if (alpha > 0) throw new Error("a translucent ground: teach this survey to blend");
  }
  throw new Error("no ground");
}

function faintText() {
  const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
  return [...document.body.querySelectorAll("*")].filter((element) => hasText(element) && isShown(element)).flatMap((element) => {
    const style = getComputedStyle(element);
    const [darker, lighter] = [luminance(channels(style.color).rgb), luminance(groundOf(element))].sort((a, b) => a - b);
    const contrast = (lighter + 0.05) / (darker + 0.05);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    return contrast < (isLarge ? 3 : 4.5) ? [`${element.textContent.trim()} (${contrast.toFixed(2)})`] : [];
  });
}

function invisibleFocus() {
  const focused = document.activeElement;
  if (focused === document.body) return [];
  const drawn = [focused, focused.closest("label")].filter(Boolean).map((element) => getComputedStyle(element));
  const isSeen = ({ outlineStyle, outlineWidth, opacity }) => outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 && opacity !== "0";
  return drawn.some(isSeen) ? [] : [focused.outerHTML];
}
