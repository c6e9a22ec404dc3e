#!/usr/bin/env python3
"""The arrow check finds what it should and nothing else."""
import pathlib
import tempfile
import unittest

import check_layers


class CheckLayers(unittest.TestCase):
    def run_on(self, files):
        with tempfile.TemporaryDirectory() as root:
            for name, text in files.items():
                path = pathlib.Path(root) / "src" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return check_layers.offences(pathlib.Path(root))

    def test_an_arrow_that_is_allowed(self):
        self.assertEqual(self.run_on({"base/a.h": "", "tensor/b.h": '#include "base/a.h"\n#include <vector>\n'}), [])

    def test_an_arrow_that_points_up(self):
        self.assertIn("may not include", self.run_on({"tensor/b.h": "", "base/a.h": '#include "tensor/b.h"\n'})[0])

    def test_server_and_train_do_not_meet(self):
        self.assertTrue(self.run_on({"train/b.h": "", "server/a.h": '#include "train/b.h"\n'}))

    def test_an_include_not_rooted_in_src(self):
        self.assertTrue(self.run_on({"base/a.h": "", "base/b.h": '#include "a.h"\n'}))

    def test_a_folder_outside_the_table(self):
        self.assertTrue(self.run_on({"misc/a.h": ""}))

    def test_a_header_that_needs_nvcc(self):
        self.assertTrue(self.run_on({"device/a.h": "#include <cuda_runtime.h>\n"}))
        self.assertEqual(self.run_on({"device/a.cu": "#include <cuda_runtime.h>\n"}), [])


if __name__ == "__main__":
    unittest.main()
