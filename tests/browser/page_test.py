#!/usr/bin/env python3
"""The page in a headless Chromium.

  tests/browser/page_test.py                     against the made-up server beside this file
  TANDEM_URL=http://127.0.0.1:8000 tests/browser/page_test.py
                                                 against a running one; tests that need made-up answers are skipped
  TANDEM_KEYED_URL=... TANDEM_KEY=...            another one, which wants that key

Needs the Debian packages chromium and chromium-driver. Arguments are unittest's.
"""
import json
import os
import pathlib
import re
import time
import unittest
import urllib.request

import fake_server
from webdriver import ENTER, ESCAPE, Browser

HERE = pathlib.Path(__file__).resolve().parent
ANSWER = ".message.assistant:last-child"

# What an imported conversation may try.
HOSTILE = fake_server.XSS + "\n[a](java\tscript:window.hacked=7) <a href=\"javascript:window.hacked=8\">b</a>\n\n| <img src=y> |\n|---|\n"


class PageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.fake = None if os.environ.get("TANDEM_URL") else fake_server.start()
        cls.url = os.environ.get("TANDEM_URL", "").rstrip("/") or cls.fake.url
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.quit)

    def setUp(self):
        b = self.browser
        b.cdp("Emulation.setDeviceMetricsOverride", width=1280, height=860, deviceScaleFactor=1, mobile=False)
        b.open("about:blank")
        b.log("browser"), b.log("performance")
        self.expected_errors = ()
        self.open_fresh(self.url)

    def tearDown(self):
        """No test may leave an error in the console, a broken policy, or a request to somewhere else."""
        self.stop_if_running()
        for entry in self.browser.log("browser"):
            expected = any(text in entry["message"] for text in self.expected_errors)
            self.assertTrue(expected or entry["level"] not in ("SEVERE", "WARNING"), entry["message"])
        for entry in self.browser.log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                self.assertTrue(url.startswith((self.origin + "/", "blob:" + self.origin, "data:")), url)

    def open_fresh(self, url):
        self.origin = url
        self.browser.open(url + "/")
        self.browser.run("localStorage.clear(); sessionStorage.clear()")
        self.browser.open(url + "/")

    def stop_if_running(self):
        if self.browser.run("return document.querySelector('#send')?.dataset.does") == "stop":
            self.browser.press(ESCAPE)
            self.wait_for_end()

    def needs_fake(self):
        if self.fake is None:
            self.skipTest("needs the made-up server")

    def ask(self, text):
        self.browser.type("#input", text + ENTER)

    def is_running(self):
        return self.browser.run("return document.querySelector('#send').dataset.does") == "stop"

    def wait_for_end(self):
        self.browser.wait(lambda: not self.is_running(), "end of the answer", seconds=60)

    def ask_and_wait(self, text):
        self.ask(text)
        self.browser.wait(lambda: self.is_running() or self.browser.count(ANSWER), "answer")
        self.wait_for_end()
        time.sleep(0.05)  # the last frame

    def metric(self, name):
        text = urllib.request.urlopen(self.url + "/metrics").read().decode()
        values = re.findall(rf"^tandem:{name}(?:{{.*}})? (\S+)$", text, re.M)
        return sum(map(float, values))


class Loading(PageTest):
    def test_it_loads_without_a_complaint(self):
        b = self.browser
        b.wait(lambda: b.count("#model option"), "models")
        self.assertTrue(b.visible("#input"))
        self.assertEqual(b.run("return document.activeElement.id"), "input")
        self.assertEqual(b.run("return document.title"), "Tandem")

    def test_every_file_has_a_type_and_the_policy(self):
        with urllib.request.urlopen(self.url + "/") as response:
            html = response.read().decode()
            policy = response.headers["content-security-policy"]
        for rule in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
                     "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"):
            self.assertIn(rule, policy)
        self.assertNotRegex(html, r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|https?://|//[a-z]")
        for file in (HERE.parents[1] / "src/server/page").iterdir():
            if file.suffix not in fake_server.TYPES or file.name == "index.html":
                continue
            with urllib.request.urlopen(f"{self.url}/page/{file.name}") as response:
                self.assertEqual(response.read(), file.read_bytes(), file.name)
                self.assertEqual(response.headers["content-type"], fake_server.TYPES[file.suffix])

    def test_every_control_has_a_name(self):
        nameless = self.browser.run("""
            document.querySelectorAll('[hidden]').forEach((element) => { element.hidden = false; });
            return [...document.querySelectorAll('button, input, select, textarea, canvas')]
                .filter((e) => !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim()))
                .map((e) => e.outerHTML.slice(0, 80));""")
        self.assertEqual(nameless, [])

    def test_modules(self):
        source = re.sub(r"^export ", "", (HERE / "modules_test.js").read_text(), flags=re.M)
        for name in ("sse", "metrics", "markdown", "chats"):
            with self.subTest(name):
                self.assertEqual(self.browser.run(f"{source}; return {name}();"), [])


class Answers(PageTest):
    def test_an_answer_grows_as_it_comes(self):
        b = self.browser
        b.run("""window.lengths = new Set();
            new MutationObserver(() => {
              const answer = document.querySelector('.message.assistant .text');
              if (answer) window.lengths.add(answer.textContent.length);
            }).observe(document.querySelector('#messages'), {childList: true, subtree: true, characterData: true});""")
        self.ask_and_wait("Tell me a story about a cat.")
        self.assertGreater(b.run("return window.lengths.size"), 2)
        self.assertRegex(b.text(ANSWER + " .stats"), r"tok/s · first after .*s · \d+ tokens · prompt \d+ · \w+")
        self.assertEqual(b.text("#title"), "Tell me a story about a cat.")
        self.assertEqual(b.count(".streaming"), 0)

    def test_markdown_is_shown(self):
        self.needs_fake()
        self.ask_and_wait("show me")
        for selector in ("h4", "strong", "em", "del", "ol > li ul > li", ".code pre code", "blockquote", "table td", "p a[href]"):
            self.assertGreater(self.browser.count(f"{ANSWER} .text {selector}"), 0, selector)
        self.assertIn("a, b, n = b, a + b, n - 1\n", self.browser.text(ANSWER + " pre"))

    def test_stop_reaches_the_server(self):
        b = self.browser
        for stop in (lambda: b.click("#send"), lambda: b.press(ESCAPE)):
            for _ in range(10):  # a quick model may be done before it can be stopped
                self.ask("Write a slow and very long story about everything.")
                b.wait(lambda: b.count(ANSWER + " .text *") or not self.is_running(), "first token")
                stop()
                self.wait_for_end()
                if "stopped" in b.run("return document.querySelector(arguments[0]).textContent", ANSWER + " .stats"):
                    break
            else:
                self.skipTest("this model is too quick to be stopped")
            b.wait(lambda: self.metric("num_requests_running") == 0, "end of the request on the server")
            self.assertEqual(b.count(ANSWER + " .error"), 0)

    def test_reasoning_is_folded(self):
        self.needs_fake()
        b = self.browser
        self.ask_and_wait("think")
        self.assertEqual(b.text(ANSWER + " .text"), "Forty-two.")
        self.assertFalse(b.visible(ANSWER + " .thoughts"))
        self.assertRegex(b.text(ANSWER + " summary"), "Thought for .* ms")
        b.click(ANSWER + " summary")
        self.assertEqual(b.text(ANSWER + " .thoughts"), "The user asks. I should <b>think</b>.\nThen answer.")

    def test_errors_are_said(self):
        self.needs_fake()
        self.expected_errors = ("429",)
        for text, error in (("busy", "the queue is full: try again in 2 s"), ("break", "the engine has failed")):
            self.ask_and_wait(text)
            self.assertEqual(self.browser.text(ANSWER + " .error"), error)
            self.assertIn("failed", self.browser.text(ANSWER + " .stats"))

    def test_what_is_sent(self):
        self.needs_fake()
        b = self.browser
        b.click("#toggle-sampling")
        for name, value in (("temperature", "0.7"), ("top_k", "40"), ("seed", "7"), ("max_tokens", "5"), ("top_p", "7"),
                            ("min_p", "x"), ("presence_penalty", "-0.5")):
            b.type(f"#sampling-{name}", value)
        b.type("#system", "Be brief.")
        self.ask_and_wait("one")
        self.assertIn("cut at the longest answer", b.text(ANSWER + " .stats"))
        first = self.fake.requests[-1]
        self.assertEqual(first, {
            "model": "fake-7b", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.7, "top_k": 40,
            "seed": 7, "max_tokens": 5, "presence_penalty": -0.5,
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}]})
        answer = b.run("return JSON.parse(localStorage.getItem(Object.keys(localStorage).find((k) => k.includes('.chat.')))).nodes[1].text")
        b.click("#sampling-reset")
        self.ask_and_wait("two")
        self.assertEqual(self.fake.requests[-1]["messages"][1:], [
            {"role": "user", "content": "one"}, {"role": "assistant", "content": answer}, {"role": "user", "content": "two"}])
        self.assertNotIn("temperature", self.fake.requests[-1])

    def test_enter_sends_and_shift_enter_begins_a_line(self):
        b = self.browser
        b.type("#input", "a\ue008" + ENTER + "\ue008b")
        self.assertEqual(b.run("return document.querySelector('#input').value"), "a\nb")
        self.assertFalse(self.is_running() or b.count(".message"))
        self.ask_and_wait("")
        self.assertEqual(b.text(".message.user .text"), "a\nb")
        self.ask("   ")
        self.assertEqual(b.count(".message"), 2)


class Conversations(PageTest):
    def test_editing_and_answering_again_branch(self):
        b = self.browser
        self.ask_and_wait("first wording")
        b.click(".message.user [aria-label^=Edit]")
        b.run("document.querySelector('.message.user textarea').value = ''")
        b.type(".message.user textarea", "second wording" + ENTER)
        b.wait(lambda: b.text(".message.user .text") == "second wording", "new wording")
        self.wait_for_end()
        self.assertEqual(b.text(".message.user .branches span"), "2/2")
        b.click(".message.user [aria-label^=Earlier]")
        self.assertEqual(b.text(".message.user .text"), "first wording")
        b.click(".message.assistant [aria-label='Answer again']")
        b.wait(lambda: b.text(".message.assistant .branches span") == "2/2", "second answer")
        self.wait_for_end()
        self.assertEqual(b.count(".message"), 2)

    def test_they_survive_a_reload(self):
        b = self.browser
        self.ask_and_wait("remember this")
        shown = b.text("#messages")
        b.reload()
        b.wait(lambda: b.count(".message") == 2, "the messages")
        self.assertEqual(b.text("#messages"), shown)
        self.assertEqual(b.text("#title"), "remember this")

    def test_an_answer_that_was_cut_by_a_reload_is_kept(self):
        self.needs_fake()
        b = self.browser
        self.ask("slow")
        b.wait(lambda: "word9" in (b.text(ANSWER + " .text") or ""), "some words")
        b.reload()
        b.wait(lambda: "word9" in (b.text(ANSWER + " .text") or ""), "the words")
        self.assertEqual(b.count(".streaming"), 0)
        b.wait(lambda: self.metric("num_requests_running") == 0, "end of the request on the server")

    def test_rename_delete_and_begin_another(self):
        b = self.browser
        self.ask_and_wait("one")
        b.click("#new-chat")
        self.assertEqual(b.count(".message"), 0)
        self.ask_and_wait("two")
        self.assertEqual(b.count("#chats li"), 2)
        b.hover("#chats li:nth-child(1)")
        b.click("#chats li:nth-child(1) [aria-label^=Rename]")
        b.type("#chats li input", " renamed" + ENTER)
        b.wait(lambda: "renamed" in b.text("#chats"), "new title")
        b.click("#chats li:nth-child(2) .chat-title")
        self.assertEqual(b.text(".message.user .text"), "one")
        b.hover("#chats li.current")
        b.click("#chats li.current [aria-label^=Delete]")
        b.click("#chats li .danger")
        b.wait(lambda: b.count("#chats li") == 1, "one left")
        self.assertEqual(b.text(".message.user .text"), "two")
        self.assertEqual(b.run("return Object.keys(localStorage).filter((k) => k.includes('.chat.')).length"), 1)

    def test_a_title_that_was_being_changed_is_kept_on_escape(self):
        b = self.browser
        self.ask_and_wait("one")
        b.hover("#chats li")
        b.click("#chats li [aria-label^=Rename]")
        b.type("#chats li input", "x" + ESCAPE)
        b.wait(lambda: b.text("#chats li .chat-title") == "one", "old title")

    def test_import(self):
        b = self.browser
        node = {"id": "a", "parent": None, "role": "user", "text": "imported"}
        file = json.dumps({"format": "tandem-conversations", "version": 1, "chats": [{"title": "from afar", "nodes": [node]}]})
        give = """const transfer = new DataTransfer();
            transfer.items.add(new File([arguments[0]], 'x.json'));
            const input = document.querySelector('#import-file');
            input.files = transfer.files;
            input.dispatchEvent(new Event('change'));"""
        b.run(give, file)
        b.wait(lambda: b.text("#title") == "from afar", "the conversation")
        self.assertEqual(b.text(".message.user .text"), "imported")
        b.run(give, "{}")
        b.wait(lambda: "Not imported" in (b.text("#notice") or ""), "refusal")
        self.assertEqual(b.count("#chats li"), 1)


class Safety(PageTest):
    def assert_inert(self):
        b = self.browser
        time.sleep(0.3)  # what is broken takes a moment to show
        self.assertIsNone(b.run("return window.hacked ?? null"))
        self.assertEqual(b.count("#messages :is(script, img, iframe, object, embed, style, link, form, base, meta)"), 0)
        self.assertEqual(b.run("""return [...document.querySelectorAll('#messages *, #sidebar *')]
            .filter((e) => e.getAttributeNames().some((name) => name.startsWith('on') || name === 'srcdoc')).length"""), 0)
        links = b.run("return [...document.querySelectorAll('#messages a')].map((a) => a.protocol)")
        self.assertLessEqual(set(links), {"http:", "https:", "mailto:"})

    def test_hostile_conversations_are_text(self):
        nodes = [{"id": "u", "parent": None, "role": "user", "text": HOSTILE, "model": HOSTILE},
                 {"id": "a", "parent": "u", "role": "assistant", "text": HOSTILE, "reasoning": HOSTILE, "error": HOSTILE,
                  "stats": {"finish": HOSTILE}}]
        chat = {"id": HOSTILE, "title": HOSTILE, "system": HOSTILE, "nodes": nodes, "leaf": "a", "updated": 1, "created": 1}
        self.browser.run("localStorage.setItem('tandem.chat.x', arguments[0])", json.dumps(chat))
        self.browser.reload()
        self.browser.wait(lambda: self.browser.count(".message") == 2, "messages")
        self.assert_inert()
        self.assertIn("<img src=x", self.browser.text(".message.user .text"))
        self.assertIn("<img src=x", self.browser.text(".message.assistant .text"))

    def test_hostile_answers_are_text(self):
        self.needs_fake()
        self.browser.click("#toggle-tokens")
        self.ask_and_wait("xss " + HOSTILE)
        self.assert_inert()
        self.browser.click("#toggle-tokens")
        self.assert_inert()

    def test_broken_storage_does_not_stop_the_page(self):
        b = self.browser
        b.run("""for (const [key, value] of [['tandem.chat.a', '{'], ['tandem.chat.b', 'null'], ['tandem.chat.c', '{"nodes": [3]}'],
            ['tandem.sampling', '['], ['tandem.theme', '"'], ['tandem.tokens', '{}']]) localStorage.setItem(key, value);""")
        b.reload()
        b.wait(lambda: b.count("#model option"), "models")
        self.ask_and_wait("still there?")
        self.assertEqual(b.count(".message"), 2)


class Views(PageTest):
    def test_tokens_show_their_alternatives(self):
        b = self.browser
        b.click("#toggle-tokens")
        self.ask_and_wait("Tell me a story about a cat.")
        spans = b.count(ANSWER + " .tokens > span")
        self.assertGreater(spans, 5)
        self.assertIn(f"{spans} tokens", b.text(ANSWER + " .stats"))
        self.assertTrue(b.run("return /(^| )level-[0-5]( |$)/.test(document.querySelector('.tokens > span').className)"))
        b.hover(ANSWER + " .tokens > span:nth-child(2)")
        b.wait(lambda: b.visible("#token-card"), "card")
        self.assertGreaterEqual(b.count("#token-card > div"), 5)
        self.assertEqual(b.count("#token-card > .chosen"), 1)
        b.hover("#input")
        self.assertFalse(b.visible("#token-card"))
        self.assertEqual(b.count(ANSWER + " .tokens > [tabindex='0']"), 1)
        b.run("document.querySelector(arguments[0]).focus()", ANSWER + " .tokens > span")
        first = b.text("#token-card")
        b.press("\ue014")  # the right arrow
        self.assertEqual(b.run("return document.activeElement.dataset.index"), "1")
        self.assertTrue(b.visible("#token-card") and b.text("#token-card") != first)
        b.click("#toggle-tokens")
        self.assertEqual(b.count(".tokens"), 0)

    def test_plots_draw(self):
        b = self.browser
        self.expected_errors = ("getImageData",)  # advice, given for how this test looks at them
        b.click("#toggle-live")
        self.ask_and_wait("Tell me a story about a cat.")
        b.wait(lambda: b.run("""return [...document.querySelectorAll('.plot')].every((plot) => {
              const canvas = plot.querySelector('canvas');
              const style = getComputedStyle(canvas);
              const colors = ['--accent', '--warm'].map((name) => style.getPropertyValue(name).match(/\\d+/g).slice(0, 3).map(Number));
              const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
              for (let i = 0; i < data.length; i += 4)
                if (data[i + 3] === 255 && colors.some((color) => color.every((part, c) => Math.abs(part - data[i + c]) < 3))) return true;
              return false;
            });"""), "colour in every plot")
        self.assertEqual(b.count(".plot"), 5)
        self.assertRegex(b.text(".plot:first-child .plot-now"), r"^\d")

    def test_metrics_are_asked_for_only_while_seen(self):
        b = self.browser
        asked = lambda: b.run("return performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/metrics')).length")
        time.sleep(1.2)
        self.assertEqual(asked(), 0)
        b.click("#toggle-live")
        b.wait(lambda: asked() >= 2, "two readings")
        b.click("#toggle-live")
        before = asked()
        time.sleep(2.2)
        self.assertLessEqual(asked(), before + 1)  # one may have been under way

    def test_a_narrow_window(self):
        b = self.browser
        for width in (320, 390, 700):
            b.cdp("Emulation.setDeviceMetricsOverride", width=width, height=640, deviceScaleFactor=2, mobile=True)
            self.open_fresh(self.url)
            self.assertFalse(b.visible("#sidebar"))
            long = "averylongword" * 20
            nodes = [{"id": "u", "parent": None, "role": "user", "text": long},
                     {"id": "a", "parent": "u", "role": "assistant", "text": f"{long} `{long}`\n```\n{long}\n```", "reasoning": long}]
            b.run("localStorage.setItem('tandem.chat.x', arguments[0])", json.dumps({"title": long, "nodes": nodes, "leaf": "a"}))
            b.reload()
            self.ask_and_wait("Tell me a story about a cat.")
            self.assertLessEqual(b.run("return document.documentElement.scrollWidth"), width)
            self.assertLessEqual(b.run("return document.querySelector('#scroller').scrollWidth"), width)
            send = b.run("const r = document.querySelector('#send').getBoundingClientRect(); return [r.left, r.right, r.bottom]")
            self.assertTrue(0 < send[0] and send[1] <= width and send[2] <= 640, send)
            for panel in ("sidebar", "sampling", "live"):
                b.click(f"#toggle-{panel}")
                self.assertTrue(b.visible(f"#{panel}"))
                b.click(f"[data-closes={panel}]")
                self.assertFalse(b.visible(f"#{panel}"))

    def test_themes(self):
        b = self.browser
        color = lambda: b.run("return getComputedStyle(document.body).backgroundColor")
        seen = {}
        for system in ("light", "dark"):
            b.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": system}])
            seen[system] = color()
        self.assertNotEqual(seen["light"], seen["dark"])
        b.click("#theme")  # auto -> light, though the system is dark
        self.assertEqual(color(), seen["light"])
        b.reload()
        self.assertEqual(color(), seen["light"])
        b.click("#theme")
        self.assertEqual(color(), seen["dark"])
        b.cdp("Emulation.setEmulatedMedia", features=[])


class Keys(PageTest):
    def test_a_server_that_wants_a_key(self):
        keyed, key = os.environ.get("TANDEM_KEYED_URL"), os.environ.get("TANDEM_KEY")
        if self.fake is not None:
            server = fake_server.start(key="sesame")
            keyed, key = server.url, "sesame"
        if not keyed or not key:
            self.skipTest("set TANDEM_KEYED_URL and TANDEM_KEY")
        b = self.browser
        self.expected_errors = ("401",)
        b.log("performance")  # those of the other origin
        self.open_fresh(keyed.rstrip("/"))
        b.wait(lambda: b.visible("#key-dialog"), "question for the key")
        b.type("#key-input", "wrong" + ENTER)
        b.wait(lambda: b.run("return document.querySelector('#key-input').value === ''") and b.visible("#key-dialog"), "second question")
        b.press(ESCAPE)
        self.assertFalse(b.visible("#key-dialog"))
        self.ask("hello")
        b.wait(lambda: b.visible("#key-dialog"), "question for the key")
        b.type("#key-input", key + ENTER)
        b.wait(lambda: b.count("#model option"), "models")
        self.wait_for_end()
        b.wait(lambda: b.text(ANSWER + " .text"), "answer to the question that was refused")
        self.assertEqual(b.count(".message"), 2)
        self.assertEqual(b.count(ANSWER + " .error"), 0)
        self.assertNotIn(key, b.run("return JSON.stringify(localStorage)"))
        b.reload()
        b.wait(lambda: b.count("#model option"), "models, without being asked again")
        self.assertFalse(b.visible("#key-dialog"))


if __name__ == "__main__":
    unittest.main()
