"""scratch"""
import time, jax
def test_it():
    import helpers
    from sweeps import population
    from testbed import stages
    from testbed.stages import GroundConfig
    from testbed.stages import Cache
    import tempfile
    class S(helpers.Silence):
        t=time.time()
        def stage(self,x):
            print("STAGE", round(time.time()-self.t,1), x); 
    configs = [GroundConfig.of(run) for run in helpers.GROUNDED]
    t=time.time()
    population.build_grounds(configs, Cache(__import__("pathlib").Path(tempfile.mkdtemp())), S())
    print("STAGE total",time.time()-t)
    t=time.time()
    population.build_grounds(configs, Cache(__import__("pathlib").Path(tempfile.mkdtemp())), S())
    print("STAGE total",time.time()-t)
    assert 0
