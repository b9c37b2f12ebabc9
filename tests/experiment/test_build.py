"""Which half imports which."""

import subprocess
import sys


def test_the_library_loads_nothing_of_the_application():
    """And the trainer loads neither the sampling of a run nor pictures: a preview is a callback."""
    code = (
        "import sys, fastscore\n"
        "print([m for m in sys.modules if m.startswith(('fastscore.experiment', 'fastscore.evaluation'))])\n"
        "import fastscore.experiment.train\n"
        "print([m for m in sys.modules if m.startswith(('fastscore.experiment.sample', 'fastscore.evaluation'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"
