/* Small pictures of the cells that are on the screen, drawn from the files that the user chose.
 *
 * In: canvases in view and their pictures {blob()}. Out: drawings on them. A canvas out of view gives its memory back, so that
 * thousands of cells can stand on the page. Only pictures that the server has scored are drawn: their size is
 * known to be within its limits.
 */

import { isNoPicture } from "./pictures.js";

const SIDE_PX = 112;
const AHEAD = "600px";
const AT_ONCE = 4;

/** Draws what comes into view. */
export class Thumbnails {
  constructor() {
    this.pictures = new WeakMap();
    this.waiting = new Set();
    this.drawing = 0;
    this.observer = new IntersectionObserver((seen) => seen.forEach((each) => this.seen(each)), { rootMargin: AHEAD });
  }

  /** Watch a canvas for this picture. */
  watch(canvas, picture) {
    this.pictures.set(canvas, picture);
    this.observer.observe(canvas);
  }

  /** No longer watch it. */
  forget(canvas) {
    this.observer.unobserve(canvas);
    this.waiting.delete(canvas);
    emptied(canvas);
  }

  seen({ target, isIntersecting }) {
    if (isIntersecting) this.waiting.add(target);
    else this.waiting.delete(target);
    if (!isIntersecting) emptied(target);
    this.go();
  }

  go() {
    while (this.drawing < AT_ONCE && this.waiting.size) {
      const [canvas] = this.waiting;
      this.waiting.delete(canvas);
      this.drawing += 1;
      draw(canvas, this.pictures.get(canvas)).finally(() => {
        this.drawing -= 1;
        this.go();
      });
    }
  }
}

/** Draw a picture onto a canvas, whole and centred; where the browser cannot decode it the placeholder beside it shows. */
export async function draw(canvas, source) {
  try {
    const picture = await createImageBitmap(await source.blob());
    const side = SIDE_PX * Math.min(2, Math.ceil(devicePixelRatio));
    const scale = side / Math.max(picture.width, picture.height);
    const [width, height] = [picture.width * scale, picture.height * scale];
    canvas.width = canvas.height = side;
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, (side - width) / 2, (side - height) / 2, width, height);
    picture.close();
    canvas.hidden = false;
  } catch (error) {
    if (!isNoPicture(error)) throw error;
    canvas.hidden = true;
    canvas.dataset.undecodable = "";
  }
}

function emptied(canvas) {
  canvas.width = canvas.height = 0;
}
