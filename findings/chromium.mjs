// Opens films in a headless Chromium without a GPU and prints the pixel in the middle of each, as a page
// reads it from a canvas. Called by shown_by_chromium in common.sh.
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { spawn } from 'node:child_process';
import chromium from '@sparticuz/chromium';

const films = process.argv.slice(2);
const profile = path.join(os.tmpdir(), 'profile');

// Runs in the page. The films are read from memory, since a page must not read pixels of another origin.
async function look(films) {
  const answers = [];
  for (const film of films) {
    const bytes = await (await fetch(`/${film}`)).blob();
    answers.push(await new Promise((done) => {
      const video = document.createElement('video');
      video.muted = true;
      video.onerror = () => done(`${film}: ${video.error.message}`);
      video.onloadeddata = () => { video.currentTime = 0.47; };
      video.onseeked = () => {
        const canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
        const context = canvas.getContext('2d');
        context.drawImage(video, 0, 0);
        const { data } = context.getImageData(canvas.width / 2, canvas.height / 2, 1, 1);
        done(`${film}: ${[...data].slice(0, 3).join(' ')}`);
      };
      video.src = URL.createObjectURL(bytes);
    }));
  }
  await fetch('/answers', { method: 'POST', body: answers.join('\n') });
}

let browser;

function stop(status) {
  process.exitCode = status;
  browser.kill();
  server.close();
  server.closeAllConnections();
}

const server = http.createServer(async (request, response) => {
  const name = request.url.slice(1);
  if (name === '') {
    response.setHeader('content-type', 'text/html');
    response.end(`<script>${look}; look(${JSON.stringify(films)});</script>`);
  } else if (name === 'answers') {
    let text = '';
    for await (const part of request) text += part;
    response.end();
    console.log(text);
    stop(0);
  } else if (films.includes(name)) {
    response.setHeader('content-type', 'video/mp4');
    response.end(fs.readFileSync(name));
  } else {
    response.statusCode = 404;
    response.end();
  }
});

const program = await chromium.executablePath();
server.listen(0, '127.0.0.1', () => {
  const page = `http://127.0.0.1:${server.address().port}/`;
  const flags = ['--headless', '--no-sandbox', '--disable-gpu', `--user-data-dir=${profile}`, page];
  browser = spawn(program, flags, { stdio: 'ignore' });
  setTimeout(() => {
    console.error('Chromium gave no answer within two minutes.');
    stop(1);
  }, 120000).unref();
});
